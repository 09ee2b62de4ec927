// The page: what is shown, what is asked, and what happens when something is pressed.
import { Failure, chat, get } from "./api.js";
import * as store from "./store.js";
import { Answer, device, failure, make, question, welcome } from "./view.js";

const $ = (id) => document.getElementById(id);
const wide = { list: matchMedia("(min-width: 700px)"), panel: matchMedia("(min-width: 1150px)") };

let model = null;
let talk = null;
let answering = null;      // of the answer on its way: an AbortController

// The server's model, which is asked for once; what is pressed before it is known waits for it.
async function known() {
  return model ||= (await get("/v1/models")).data[0];
}

// ---- settings ----

const settings = $("settings");

function fillSettings() {
  for (const [name, value] of Object.entries(talk.settings)) {
    const field = settings.elements[name];
    if (field.type === "checkbox") field.checked = value;
    else field.value = value ?? "";
  }
  checkSettings();
}

function tools() {
  if (!talk.settings.tools.trim()) return [];
  const list = JSON.parse(talk.settings.tools);
  if (!Array.isArray(list)) throw new Error("expected a list");
  return list.map((tool) => (tool?.function ? tool : { type: "function", function: tool }));
}

// Says what is wrong with the settings, and whether nothing is.
function checkSettings() {
  let wrong = "";
  const field = settings.querySelector(":invalid");
  if (field) wrong = `${field.closest("label").firstChild.textContent.trim()}: ${field.validationMessage}`;
  settings.elements.tools.removeAttribute("aria-invalid");
  try {
    tools();
  } catch (error) {
    wrong = `Tools: ${error.message}`;
    settings.elements.tools.setAttribute("aria-invalid", "true");
  }
  $("settings-error").textContent = wrong;
  $("settings-error").hidden = !wrong;
  settings.elements.effort.disabled = !talk.settings.thinking;
  return !wrong;
}

settings.addEventListener("input", () => {
  for (const name of Object.keys(store.DEFAULTS)) {
    const field = settings.elements[name];
    if (field.type === "checkbox") talk.settings[name] = field.checked;
    else if (field.type !== "number") talk.settings[name] = field.value;
    else if (field.value !== "" || name === "max_tokens") talk.settings[name] = field.value === "" ? null : field.valueAsNumber;
  }
  if (checkSettings()) store.remember("settings", talk.settings);
  if (talk.messages.length) keep();
});
settings.addEventListener("submit", (event) => event.preventDefault());

// ---- conversations ----

function keep() {
  try {
    store.save(talk);
  } catch {
    say("This browser has no more room for conversations: export and delete some.", true);
  }
  showList();
}

function showList() {
  const all = store.all();
  $("conversations").replaceChildren(...all.map((one) => {
    const open = make("button", { type: "button", className: "open", textContent: one.title || "Untitled", onclick: () => open_(one.id) });
    if (one.id === talk.id) open.setAttribute("aria-current", "true");
    const gone = make("button", { type: "button", className: "delete", textContent: "✕", ariaLabel: `Delete ${one.title || "Untitled"}`,
      onclick: () => remove(one) });
    return make("li", {}, open, gone);
  }));
}

function remove(one) {
  if (!confirm(`Delete “${one.title || "Untitled"}”?`)) return;
  store.remove(one.id);
  if (one.id === talk.id) begin();
  else showList();
}

function begin() {
  open_(null);
}

function open_(id) {
  if (id && id === talk?.id) {
    drawer("list", wide.list.matches);
    return;
  }
  answering?.abort();
  answering = null;
  talk = (id && store.load(id)) || store.fresh({ ...store.DEFAULTS, ...store.recall("settings", {}) });
  store.remember("open", talk.id);
  drawer("list", wide.list.matches);
  fillSettings();
  showAll();
  showList();
  busy(false);
  $("question").focus();
}

// ---- what is shown ----

const atEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 80;
const toEnd = () => { $("scroll").scrollTop = $("scroll").scrollHeight; };

function say(text, loud = false) {
  $("status").textContent = text;
  if (loud) $("messages").append(failure(text, () => showAll()));
}

function unanswered() {
  const last = talk.messages.at(-1);
  return last?.role === "assistant" && last.tool_calls?.length > 0;
}

function showAll() {
  const results = Object.fromEntries(talk.messages.filter((one) => one.role === "tool").map((one) => [one.tool_call_id, one.content]));
  const shown = talk.messages.flatMap((message, i) => {
    if (message.role === "user") return [question(message, { edit: (text) => ask(text, i) })];
    if (message.role === "tool") return [];
    const last = i === talk.messages.length - 1;
    return [new Answer(message, results, last && { regenerate: () => again(i), results: unanswered() ? give : null }).element];
  });
  $("messages").replaceChildren(...(shown.length ? shown : [welcome(model)]));
  $("title").textContent = talk.title || "New conversation";
  document.title = talk.title ? `${talk.title} – dsvk` : "dsvk";
  showFigures();
  toEnd();
}

function showFigures(figures = talk.messages.findLast((one) => one.figures)?.figures) {
  const used = figures ? (figures.prompt || 0) + (figures.completion || 0) : 0;
  const most = model?.max_input_tokens || 0;
  $("context").max = most || 1;
  $("context").value = used;
  $("context-text").textContent = most ? `${used.toLocaleString("en")} of ${most.toLocaleString("en")}` : "";
  $("rate").textContent = figures?.rate ? `${figures.rate.toFixed(figures.rate < 10 ? 1 : 0)} tokens/s` : "";
  $("cached").textContent = figures?.prompt ? `${Math.round(100 * figures.cached / figures.prompt)} % cached` : "";
}

function busy(on) {
  $("messages").setAttribute("aria-busy", String(on));
  $("stop").hidden = !on;
  $("send").hidden = on;
  $("send").disabled = !on && unanswered();
  $("question").placeholder = unanswered() ? "Give the tool's result first" : "Ask something";
}

// ---- asking ----

// A question at the end, or in place of message `at` and all behind it.
function ask(text, at = talk.messages.length) {
  if (answering) return;
  talk.messages.splice(at, Infinity, { role: "user", content: text });
  if (at === 0) talk.title = store.titleOf(text);
  answer();
}

function again(at) {
  if (answering) return;
  talk.messages.splice(at);
  answer();
}

function give(results) {
  for (const [id, content] of Object.entries(results)) talk.messages.push({ role: "tool", tool_call_id: id, content });
  answer();
}

function body() {
  const s = talk.settings;
  const list = tools();
  const system = s.system.trim() ? [{ role: "system", content: s.system }] : [];
  return {
    model: model.id, stream: true, stream_options: { include_usage: true, include_progress: true },
    messages: [...system, ...talk.messages.map(({ figures, ...message }) => message)],
    thinking: { type: s.thinking ? "enabled" : "disabled" }, reasoning_effort: s.effort, temperature: s.temperature, top_p: s.top_p,
    ...(s.max_tokens ? { max_tokens: s.max_tokens } : {}), ...(list.length ? { tools: list } : {}),
  };
}

const now = () => performance.now() / 1000;

// One chunk's part of the message; live: when what began, and how far the prompt is.
function take(message, chunk, live) {
  const figures = message.figures;
  if (chunk.prompt_progress) {
    live.progress = chunk.prompt_progress;
    Object.assign(figures, { prompt: live.progress.total, cached: live.progress.cached });
  }
  if (chunk.usage) {
    const u = chunk.usage;
    Object.assign(figures, { prompt: u.prompt_tokens, cached: u.prompt_tokens_details.cached_tokens, completion: u.completion_tokens,
                             reasoning: u.completion_tokens_details.reasoning_tokens, exact: true });
  }
  const { delta, finish_reason } = chunk.choices[0] || { delta: {} };
  if (delta.reasoning_content || delta.content || delta.tool_calls) {
    live.last = now();
    live.began ||= live.last;
    figures.completion = (figures.completion || 0) + 1;      // about one token each, until usage says it exactly
  }
  if (live.last > live.began) figures.rate = (figures.completion - 1) / (live.last - live.began);
  if (delta.reasoning_content) {
    message.reasoning_content = (message.reasoning_content || "") + delta.reasoning_content;
    figures.reasoning = (figures.reasoning || 0) + 1;
    figures.think_seconds = live.last - live.began;
  }
  if (delta.content) message.content += delta.content;
  for (const part of delta.tool_calls || []) {
    message.tool_calls ||= [];
    const call = message.tool_calls[part.index] ||= { id: part.id, type: "function", function: { name: "", arguments: "" } };
    call.function.name += part.function.name || "";
    call.function.arguments += part.function.arguments || "";
  }
  if (finish_reason) figures.finish = finish_reason;
}

async function answer() {
  if (!checkSettings()) {
    showAll();
    $("messages").append(failure("The settings are not right yet.", retry));
    drawer("panel", true);
    return;
  }
  const mine = talk;
  const control = answering = new AbortController();
  const message = { role: "assistant", content: "", figures: {} };
  const live = { began: 0, last: 0, progress: null };
  mine.changed = Date.now();
  showAll();
  keep();
  busy(true);
  say("The model is reading.");
  const view = new Answer(message, {}, null);
  $("messages").append(view.element);
  let drawn = 0, wrong = "";
  const draw = () => {
    drawn = 0;
    const follow = atEnd();
    view.update(live);
    showFigures(message.figures);
    if (follow) toEnd();
  };
  draw();
  toEnd();
  try {
    await known();
    for await (const chunk of chat(body(), control.signal)) {
      take(message, chunk, live);
      drawn ||= requestAnimationFrame(draw);
    }
  } catch (error) {
    if (control.signal.aborted) message.figures.finish = "stopped";
    else wrong = error instanceof Failure ? error.message : `${error}`;
  }
  cancelAnimationFrame(drawn);
  if (!["tool_calls", "stop"].includes(message.figures.finish)) delete message.tool_calls;      // cut ones can't be answered
  if (message.content || message.reasoning_content || message.tool_calls) mine.messages.push(message);
  if (answering === control) answering = null;
  if (mine !== talk) {      // another conversation was opened meanwhile
    if (store.load(mine.id)) store.save(mine);
    showList();
    return;
  }
  keep();
  showAll();
  busy(false);
  const stopped = control.signal.aborted;
  if (stopped && mine.messages.at(-1) !== message) wrong = "Stopped before the answer began.";
  if (wrong) $("messages").append(failure(wrong, retry));
  if (wrong) toEnd();
  say(wrong ? "" : stopped ? "Stopped." : unanswered() ? "The model calls a tool and waits for its result." : "The answer is complete.");
  if (!$("panel").inert) refresh();
  if (document.activeElement === document.body) $("question").focus();
}

// The last answer anew, without what there was of it.
function retry() {
  if (talk.messages.at(-1)?.role === "assistant") talk.messages.pop();
  if (!answering) answer();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value;
  if (!text.trim() || answering || unanswered()) return;
  $("question").value = "";
  grow();
  ask(text);
});
$("stop").addEventListener("click", () => { answering?.abort(); $("question").focus(); });
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

function grow() {
  $("question").style.height = "auto";
  $("question").style.height = `${$("question").scrollHeight + 2}px`;
}
$("question").addEventListener("input", grow);

// ---- drawers: beside the conversation where there is room, above it where there is not ----

function drawer(name, open) {
  const element = $(name), over = !wide[name].matches, button = $(`show-${name}`);
  const inside = element.contains(document.activeElement);
  element.classList.toggle("open", open);
  element.inert = over ? !open : name === "panel" && !open;
  button.setAttribute("aria-expanded", String(open));
  const covers = ["list", "panel"].some((one) => !wide[one].matches && $(one).classList.contains("open"));
  $("main").inert = $("backdrop").hidden = false;
  $("main").inert = covers;
  $("backdrop").hidden = !covers;
  if (over && open) element.querySelector(".close").focus();
  if (over && inside && !open) button.focus();
  if (name === "panel" && open) refresh();
}

for (const name of ["list", "panel"]) {
  $(`show-${name}`).addEventListener("click", () => drawer(name, !$(name).classList.contains("open")));
  document.querySelector(`[data-close=${name}]`).addEventListener("click", () => drawer(name, false));
  wide[name].addEventListener("change", () => drawer(name, wide[name].matches));
}
$("backdrop").addEventListener("click", closeDrawers);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!$("backdrop").hidden) closeDrawers();
  else answering?.abort();
});

function closeDrawers() {
  for (const name of ["list", "panel"]) if (!wide[name].matches) drawer(name, false);
}

async function refresh() {
  try {
    device($("device"), await get("/status"));
  } catch (error) {
    $("device").replaceChildren(make("dt", { textContent: "Device" }), make("dd", { textContent: error.message }));
  }
}
$("refresh").addEventListener("click", refresh);

// ---- files, theme, beginning ----

$("export").addEventListener("click", () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([store.exported()], { type: "application/json" })),
                           download: `dsvk-${new Date().toISOString().slice(0, 10)}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (!file) return;
  try {
    const n = store.imported(await file.text());
    showList();
    say(`${n} conversation${n === 1 ? "" : "s"} imported.`);
  } catch (error) {
    say(error.message, true);
  }
});

function theme(value) {
  document.documentElement.dataset.theme = value;
  $("theme").value = value;
}
$("theme").addEventListener("change", () => { store.remember("theme", $("theme").value); theme($("theme").value); });
$("new").addEventListener("click", begin);

// Another tab has written. Where it went on with the conversation that is open here, this tab follows, or, while it is being
// answered here, goes on with a copy: neither's turns are lost.
addEventListener("storage", (event) => {
  const changed = event.key === store.keyOf(talk.id) && event.newValue !== null;
  if (changed && answering) talk.id = store.fresh().id;
  else if (changed) reopen();
  showList();
});

function reopen() {
  const { id } = talk;
  talk = null;
  open_(id);
}

async function start() {
  theme(store.recall("theme", ""));
  for (const name of ["list", "panel"]) drawer(name, false);
  open_(store.recall("open", null));
  try {
    await known();
    drawer("panel", wide.panel.matches);
    if (talk.messages.length) showFigures();      // what was written into the conversation meanwhile stays
    else showAll();
  } catch (error) {
    $("messages").append(failure(error.message, () => location.reload()));
  }
}
start();
