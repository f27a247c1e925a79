
"use strict";
// The buttons of the demo's page. One stream at a time: each press leaves the one before. What comes is shown as text.
{
  const MOST = 20000; // characters that stay on the page
  const find = id => document.getElementById(id);
  const base = `http://${location.hostname}:${find("tries").dataset.port}`;
  let current = null; // ends the stream that is shown

  const show = text => {
    const output = find("tried-text");
    const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
    output.textContent = (output.textContent + text).slice(-MOST);
    if (atEnd) output.scrollTop = output.scrollHeight;
  };

  const start = async ({ target, body }) => {
    if (current !== null) current.abort();
    const mine = current = new AbortController();
    const say = (...parts) => {
      if (mine === current) find("tried-state").textContent = [`${body ? "POST" : "GET"} ${target}`, ...parts].join(" · ");
    };
    say("waiting for the response");
    find("tried").hidden = find("tried-stop").hidden = false;
    find("tried-text").textContent = body ? `${body}\n\n` : "";
    let head = [];
    try {
      const post = body ? { method: "POST", headers: { "content-type": "application/json" }, body } : {};
      const response = await fetch(base + target, { ...post, cache: "no-store", credentials: "omit", signal: mine.signal });
      head = [response.status, response.headers.get("content-type")];
      say(...head, "streaming");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        if (mine === current) show(value);
      }
      say(...head, "complete");
    } catch (error) {
      say(...head, mine.signal.aborted ? "left" : head.length ? "broken off" : `no response from ${base}`);
    }
    if (mine === current) find("tried-stop").hidden = true;
  };

  for (const button of document.querySelectorAll("[data-target]")) button.addEventListener("click", () => start(button.dataset));
  find("tried-stop").addEventListener("click", () => current.abort());
}
