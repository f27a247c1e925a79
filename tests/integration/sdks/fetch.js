// Users' code without an SDK, in Node and in browsers: what it finds of a chat in the bytes as they come.

const WORDS = /"(?:content|name|arguments|message)": ?"((?:[^"\\]|\\.)+)"/g;

export async function* chat(url, model, signal) {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "hi" }], stream: true });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body, signal });
  if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status });
  for await (const text of pieces(response)) {
    for (const [, word] of text.matchAll(WORDS)) yield JSON.parse(`"${word}"`);
  }
}

async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}

/** An EventSource that is left when its stream has ended, where it would come again. */
export async function* events(url, model, signal) {
  const source = new EventSource(`${url}/events?model=${model}`);
  signal.addEventListener("abort", () => source.close());
  const said = [];
  let wake = () => {};
  const say = what => { said.push(what); wake(); };
  signal.addEventListener("abort", () => say(new DOMException("aborted", "AbortError")));
  source.onmessage = event => say(event.data);
  source.onerror = event => {
    if (event.data !== undefined) { // an event of the stream that is called "error"
      return say(`[${event.data.startsWith("{") ? JSON.parse(event.data).detail : event.data}]`);
    }
    const closed = source.readyState === EventSource.CLOSED;
    source.close();
    say(new Error(closed ? "refused" : "lost"));
  };
  for (;;) {
    while (said.length) {
      const what = said.shift();
      if (typeof what !== "string") throw what;
      yield what;
    }
    await new Promise(resolve => { wake = resolve; });
  }
}

/** Run a user; `say` hears each text, and at the end null or what was thrown. */
export async function run(words, say) {
  try {
    for await (const text of words) say({ text });
    say({ end: null });
  } catch (error) {
    const status = error.status ?? error.statusCode ?? error.status_code ?? null;
    const message = error.message ?? JSON.stringify(error);
    say({ end: { name: error.constructor.name, status, message } });
  }
}
