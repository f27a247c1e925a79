/** One event of a stream, or one line of newline-delimited JSON (`type` is "line" then). */
export interface StreamEvent {
  type: string;
  data: string;
  id: string | null;
}

export interface StreamOptions {
  /** How often in a row, without an event between, the stream is asked for again. 8 by default. */
  attempts?: number;
  /** The first pause before that, in milliseconds; it doubles. 250 by default. */
  backoff?: number;
  /** The longest pause, in milliseconds. 10000 by default. */
  maxBackoff?: number;
  /** What sends the requests; the global `fetch` by default. */
  fetch?: typeof fetch;
  /** Called with each new cursor, to keep it, for example in `sessionStorage`. */
  onCursor?: (cursor: string) => void;
}

export class StreamLost extends Error {
  /** 410: what comes next is not kept any more; 404: no stream of this client's; 200: another one; 0: it broke too often. */
  readonly status: number;
  readonly cursor: string | null;
}

export class Stream implements AsyncIterable<StreamEvent> {
  private constructor();
  readonly response: Response;
  readonly cursor: string | null;
  stop(): Promise<void>;
  leave(): void;
  [Symbol.asyncIterator](): AsyncIterator<StreamEvent>;
}

export function openStream(input: RequestInfo | URL, init?: RequestInit, options?: StreamOptions): Promise<Stream>;
export function resumeStream(
  input: RequestInfo | URL,
  cursor: string,
  init?: RequestInit,
  options?: StreamOptions,
): Promise<Stream>;
export function parseCursor(text: string | null): { name: string; events: number } | null;
