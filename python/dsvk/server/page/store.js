// Conversations in this browser's localStorage, one key each, and as files.

const PREFIX = "dsvk.conversation.";
const ROLES = ["user", "assistant", "tool"];
const COUNTS = ["prompt", "cached", "completion", "reasoning", "rate", "think_seconds"];
const EFFORTS = ["low", "high", "max"];

export const DEFAULTS = { thinking: true, effort: "high", temperature: 1, top_p: 1, max_tokens: null, system: "", tools: "" };

// What is only convenient: forgotten when the browser has no more room.
export function remember(name, value) {
  try {
    localStorage.setItem(`dsvk.${name}`, JSON.stringify(value));
  } catch {
    return;
  }
}

export function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`dsvk.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function fresh(settings) {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), title: "", changed: Date.now(), settings, messages: [] };
}

// Throws QuotaExceededError when the browser has no more room.
export function save(conversation) {
  localStorage.setItem(keyOf(conversation.id), JSON.stringify(conversation));
}

export function remove(id) {
  localStorage.removeItem(keyOf(id));
}

export function load(id) {
  try {
    return checked(JSON.parse(localStorage.getItem(keyOf(id))));
  } catch {
    return null;
  }
}

// The latest first; what cannot be read is left alone and not listed.
export function all() {
  return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).map((name) => load(name.slice(PREFIX.length)))
    .filter(Boolean).sort((a, b) => b.changed - a.changed);
}

export const keyOf = (id) => PREFIX + id;

export const titleOf = (question) => question.trim().split("\n")[0].slice(0, 60);

const text = (value) => (typeof value === "string" ? value : "");

function figures(value) {
  const one = {};
  for (const name of COUNTS) if (Number.isFinite(value[name]) && value[name] >= 0) one[name] = value[name];
  if ("prompt" in one) one.cached ??= 0;
  if (typeof value.finish === "string") one.finish = value.finish;
  if (value.exact === true) one.exact = true;
  return one;
}

function message(value) {
  if (!ROLES.includes(value?.role)) throw new Error(`a message has the role ${JSON.stringify(value?.role)}`);
  const one = { role: value.role, content: text(value.content) };
  if (value.reasoning_content) one.reasoning_content = text(value.reasoning_content);
  if (value.tool_call_id) one.tool_call_id = text(value.tool_call_id);
  if (Array.isArray(value.tool_calls) && value.tool_calls.length) {
    one.tool_calls = value.tool_calls.map((call) => ({
      id: text(call.id), type: "function", function: { name: text(call.function?.name), arguments: text(call.function?.arguments) },
    }));
  }
  if (value.figures && typeof value.figures === "object") one.figures = figures(value.figures);
  return one;
}

// A conversation with every field of the type it should have; throws when it is none.
function checked(value) {
  if (!Array.isArray(value?.messages)) throw new Error("no messages");
  const settings = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    const given = value.settings?.[name];
    if (typeof given === typeof DEFAULTS[name] || (name === "max_tokens" && typeof given === "number")) settings[name] = given;
  }
  if (!EFFORTS.includes(settings.effort)) settings.effort = DEFAULTS.effort;
  const messages = value.messages.map(message);
  const title = text(value.title) || titleOf(messages.find((one) => one.role === "user")?.content ?? "");
  return { id: text(value.id) || fresh().id, title, changed: Number(value.changed) || Date.now(), settings, messages };
}

// A request body, as `dsvk chat` saves it, has its settings among its fields.
function fromRequest(body) {
  const system = body.messages.filter((one) => ["system", "developer"].includes(one?.role)).map((one) => text(one.content)).join("\n\n");
  const max = body.max_tokens ?? body.max_completion_tokens;
  return checked({
    settings: { ...body, system, thinking: body.thinking?.type !== "disabled", effort: body.reasoning_effort, max_tokens: max,
                tools: body.tools ? JSON.stringify(body.tools, null, 1) : "" },
    messages: body.messages.filter((one) => !["system", "developer"].includes(one?.role)),
  });
}

export function exported() {
  return JSON.stringify({ dsvk: 1, conversations: all() }, null, 1);
}

// Saves what a file holds and returns how many conversations that were; throws with a sentence.
export function imported(file) {
  let value;
  try {
    value = JSON.parse(file);
  } catch (error) {
    throw new Error(`The file is no JSON: ${error.message}`);
  }
  let found;
  try {
    found = Array.isArray(value?.conversations) ? value.conversations.map(checked)
      : [Array.isArray(value?.messages) && !value.settings ? fromRequest(value) : checked(value)];
  } catch (error) {
    throw new Error(`The file holds no conversations: ${error.message}`);
  }
  for (const one of found) {
    const here = load(one.id);      // what has gone on here since stays, and what the file holds stands beside it
    if (here && JSON.stringify(here.messages) !== JSON.stringify(one.messages)) one.id = fresh().id;
    save(one);
  }
  return found.length;
}
