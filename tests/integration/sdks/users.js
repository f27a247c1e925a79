// Users' code: it reads a stream with an SDK, and says what it sees.
//
// A line of its input starts a user, {id, sdk, url, model}, or tells one to stop, {stop: id}. Its lines say each text that
// a user gets, {id, text}, and how its stream ended, {id, end}: null, or the exception's {name, status, message}.

import { createInterface } from "node:readline";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { jsonSchema, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { chat, run } from "./fetch.js";

const HI = [{ role: "user", content: "hi" }];
const CITY = { type: "object", properties: { city: { type: "string" } } };

const openai = url => new OpenAI({ baseURL: `${url}/v1`, apiKey: "key", maxRetries: 0 });

async function* parts(model, signal) {
  const tools = { look: tool({ description: "Look", inputSchema: jsonSchema(CITY) }) };
  const { fullStream } = streamText({ model, messages: HI, tools, maxRetries: 0, abortSignal: signal, onError() {} });
  for await (const part of fullStream) {
    if (part.type === "text-delta") yield part.text;
    if (part.type === "tool-call") yield part.toolName + JSON.stringify(part.input);
    if (part.type === "error") throw part.error;
    if (part.type === "abort") throw new DOMException("aborted", "AbortError");
  }
}

const SDKS = {
  async *openai(url, model, signal) {
    const stream = await openai(url).chat.completions.create({ model, messages: HI, stream: true }, { signal });
    for await (const chunk of stream) {
      const delta = chunk.choices[0].delta;
      if (delta.content) yield delta.content;
      for (const call of delta.tool_calls ?? []) yield (call.function.name ?? "") + call.function.arguments;
    }
  },
  async *responses(url, model, signal) {
    const stream = await openai(url).responses.create({ model, input: "hi", stream: true }, { signal });
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") yield event.delta;
      if (event.type === "response.output_item.done") yield event.item.name + event.item.arguments;
      if (event.type === "response.failed") yield `[${event.response.error.message}]`;
    }
  },
  async *anthropic(url, model, signal) {
    const client = new Anthropic({ baseURL: url, apiKey: "key", maxRetries: 0 });
    const stream = await client.messages.create({ model, max_tokens: 9, messages: HI, stream: true }, { signal });
    for await (const event of stream) {
      if (event.type === "content_block_start" && event.content_block.type === "tool_use") yield event.content_block.name;
      if (event.type === "content_block_delta") yield event.delta.text ?? event.delta.partial_json;
    }
  },
  async *genai(url, model, signal) {
    const client = new GoogleGenAI({ apiKey: "key", httpOptions: { baseUrl: url } });
    const config = { abortSignal: signal };
    for await (const chunk of await client.models.generateContentStream({ model, contents: "hi", config })) {
      for (const call of chunk.functionCalls ?? []) yield call.name + JSON.stringify(call.args);
      if (!chunk.functionCalls && chunk.text) yield chunk.text;
    }
  },
  async *ollama(url, model, signal) {
    // Its abort() knows only of streams that have begun.
    const client = new Ollama({ host: url, fetch: (input, init) => fetch(input, { ...init, signal }) });
    for await (const { message } of await client.chat({ model, messages: HI, stream: true })) {
      for (const call of message.tool_calls ?? []) yield call.function.name + JSON.stringify(call.function.arguments);
      if (message.content) yield message.content;
    }
  },
  async *ai(url, model, signal) {
    yield* parts(createOpenAI({ baseURL: `${url}/v1`, apiKey: "key" }).chat(model), signal);
  },
  async *"ai-responses"(url, model, signal) {
    yield* parts(createOpenAI({ baseURL: `${url}/v1`, apiKey: "key" }).responses(model), signal);
  },
  fetch: chat,
};

const say = what => console.log(JSON.stringify(what));
const stops = new Map();

function start({ id, sdk, url, model }) {
  const controller = new AbortController();
  stops.set(id, () => controller.abort());
  run(SDKS[sdk](url, model, controller.signal), said => say({ id, ...said }));
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.stop) stops.get(order.stop)();
  else start(order);
}
