/**
 * Reads an event stream or a stream of JSON lines, and comes back to it when the connection breaks.
 *
 * A response of a route with `resume` carries `X-Stream-Cursor: STREAM/N`: how many events come before it. This module
 * counts the events that it has handed out, and asks with `Last-Event-ID: STREAM/(N+n)` for the rest. So each event
 * comes once, and the request itself, which may be a POST with side effects, is sent once.
 */

const CURSOR = "x-stream-cursor";

/** The stream can't be taken up again. `cursor` is the place where it broke off. */
export class StreamLost extends Error {
  constructor(message, { status = 0, cursor = null, cause } = {}) {
    super(message, { cause });
    this.name = "StreamLost";
    this.status = status;
    this.cursor = cursor;
  }
}

/**
 * Opens a stream. Returns it when the head of the response is here; throws what `fetch` throws before.
 * A status other than 200 is not an error of this function: look at `stream.response`.
 */
export async function openStream(input, init = {}, options = {}) {
  const stream = new Stream(input, init, options);
  await stream._open();
  return stream;
}

/** Takes up a stream whose cursor was kept, for example over a reload of the page. */
export async function resumeStream(input, cursor, init = {}, options = {}) {
  const stream = new Stream(input, init, options);
  stream._place = parseCursor(cursor);
  if (stream._place === null) throw new TypeError(`not a cursor: ${cursor}`);
  await stream._open();
  return stream;
}

export class Stream {
  constructor(input, init, { attempts = 8, backoff = 250, maxBackoff = 10000, fetch = globalThis.fetch, onCursor } = {}) {
    this.response = null;
    this._url = input instanceof Request ? input.url : String(input);
    this._input = input;
    this._init = init;
    this._credentials = init.credentials ?? (input instanceof Request ? input.credentials : undefined);
    this._fetch = (...request) => fetch(...request); // not as a method: a browser's own refuses another `this`
    this._attempts = attempts;
    this._backoff = backoff;
    this._maxBackoff = maxBackoff;
    this._onCursor = onCursor;
    this._place = null; // {name, events}
    this._stop = new AbortController();
    this._ended = false;
    const outer = init.signal ?? (input instanceof Request ? input.signal : null);
    if (outer?.aborted) this._stop.abort(outer.reason);
    else outer?.addEventListener("abort", () => this._stop.abort(outer.reason), { once: true });
  }

  /** Where the stream goes on after the last event that was handed out; null where it can't be taken up again. */
  get cursor() {
    return this._place === null ? null : `${this._place.name}/${this._place.events}`;
  }

  /** Ends the stream for good, at the upstream too. Resolves when the proxy has answered. */
  async stop() {
    this._ended = true;
    const cursor = this.cursor;
    this._stop.abort(new DOMException("The stream was stopped", "AbortError"));
    if (cursor === null) return;
    const init = { method: "DELETE", headers: this._headers(cursor), credentials: this._credentials };
    const answer = await this._fetch(this._url, init);
    await answer.body?.cancel();
  }

  /** Leaves the stream alone: it goes on at the proxy for as long as the route's `grace`. */
  leave() {
    this._ended = true;
    this._stop.abort(new DOMException("The stream was left", "AbortError"));
  }

  async *[Symbol.asyncIterator]() {
    let failures = 0;
    while (true) {
      let fault = null;
      try {
        for await (const event of this._events()) {
          failures = 0;
          yield event;
        }
      } catch (error) {
        fault = error;
      }
      if (this._ended || fault === null) return;
      if (this._stop.signal.aborted) throw this._stop.signal.reason;
      if (this._place === null) throw fault;
      for (let again = true; again; ) {
        failures += 1;
        if (failures > this._attempts) throw new StreamLost("the stream broke too often", { cursor: this.cursor, cause: fault });
        await this._pause(failures);
        try {
          await this._open();
          again = false;
        } catch (error) {
          if (error instanceof StreamLost || this._stop.signal.aborted) {
            if (this._ended) return;
            throw error;
          }
          fault = error;
        }
        if (!again && this.response.status === 204) return;
      }
    }
  }

  async _open() {
    const again = this._place !== null;
    const init = again
      ? { method: "GET", headers: this._headers(this.cursor), credentials: this._credentials, cache: "no-store" }
      : { ...this._init };
    init.signal = this._stop.signal;
    const response = await this._fetch(again ? this._url : this._input, init);
    this.response = response;
    if (!again) {
      this._moveTo(parseCursor(response.headers.get(CURSOR)));
      return;
    }
    // An answer of anybody who knows no cursors would begin from the start.
    if (response.status === 204 || (response.status === 200 && response.headers.get(CURSOR) === this.cursor)) return;
    await response.body?.cancel();
    if (response.status >= 500 || response.status === 429) throw new Error(`the proxy answered ${response.status}`);
    const reasons = { 200: "the answer is another stream", 410: "the stream is gone" };
    const message = reasons[response.status] ?? `the stream was refused: ${response.status}`;
    throw new StreamLost(message, { status: response.status, cursor: this.cursor });
  }

  async *_events() {
    const body = this.response.body;
    if (body === null || this.response.status !== 200) return;
    const type = (this.response.headers.get("content-type") ?? "").toLowerCase();
    const lines = type.includes("ndjson") || type.includes("jsonl");
    const parser = lines ? new LineParser() : new EventParser();
    const reader = body.getReader();
    try {
      while (true) {
        const { done, value } = await reader.read();
        for (const event of done ? parser.finish() : parser.feed(value)) {
          if (this._place !== null) this._moveTo({ name: this._place.name, events: this._place.events + 1 });
          yield event;
        }
        if (done) return;
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  _moveTo(place) {
    this._place = place;
    if (place !== null) this._onCursor?.(this.cursor);
  }

  /** The credentials of the request, with a cursor in place of what its body needs. */
  _headers(cursor) {
    const given = new Headers(this._init.headers ?? (this._input instanceof Request ? this._input.headers : undefined));
    given.delete("content-type");
    given.delete("content-length");
    given.set("last-event-id", cursor);
    return given;
  }

  _pause(failures) {
    const most = Math.min(this._maxBackoff, this._backoff * 2 ** (failures - 1));
    const time = most / 2 + (Math.random() * most) / 2;
    const signal = this._stop.signal;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, time);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
    });
  }
}

/** `STREAM/N` as its two parts; null for anything else. */
export function parseCursor(text) {
  const match = /^([A-Za-z0-9_-]{22,})\/(\d{1,15})$/.exec(text ?? "");
  return match === null ? null : { name: match[1], events: Number(match[2]) };
}

/** Server-sent events (WHATWG HTML, section 9.2.6), as `{type, data, id}`. */
export class EventParser {
  constructor() {
    this._decoder = new TextDecoder("utf-8"); // takes a byte order mark away
    this._text = "";
    this._begin();
  }

  *feed(bytes) {
    this._text += this._decoder.decode(bytes, { stream: true });
    const end = /\r\n|\n|\r(?!$)/g; // a CR at the very end may be followed by its LF
    let at = 0;
    for (let match; (match = end.exec(this._text)) !== null; at = end.lastIndex) {
      const event = this._line(this._text.slice(at, match.index));
      if (event !== null) yield event;
    }
    this._text = this._text.slice(at);
  }

  *finish() {
    if (this._text === "\r") {
      const event = this._line("");
      if (event !== null) yield event;
    }
  }

  _begin() {
    this._data = null;
    this._type = "";
    this._id = null;
  }

  _line(line) {
    if (line === "") {
      const event = this._data === null ? null : { type: this._type || "message", data: this._data, id: this._id };
      this._begin();
      return event;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this._data = this._data === null ? value : `${this._data}\n${value}`;
    else if (name === "event") this._type = value;
    else if (name === "id" && !value.includes("\0")) this._id = value;
    return null;
  }
}

/** Lines of JSON, as `{type: "line", data, id: null}`; a keepalive is white space at the start of a line. */
export class LineParser {
  constructor() {
    this._decoder = new TextDecoder("utf-8");
    this._text = "";
  }

  *feed(bytes) {
    this._text += this._decoder.decode(bytes, { stream: true });
    const lines = this._text.split("\n");
    this._text = lines.pop();
    for (const line of lines) yield { type: "line", data: line.trim(), id: null };
  }

  *finish() {
    if (this._text.trim() !== "") yield { type: "line", data: this._text.trim(), id: null };
    this._text = "";
  }
}
