// What a conversation looks like: one article per turn, made of elements and text nodes.
import { show } from "./markdown.js";

export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const seconds = (n) => (n < 10 ? `${n.toFixed(1)} s` : `${Math.round(n)} s`);

const button = (text, action, properties = {}) => make("button", { type: "button", textContent: text, onclick: action, ...properties });

async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Not allowed";
  }
  setTimeout(() => { pressed.textContent = "Copy"; }, 1500);
}

// Code blocks have a button of their own.
document.addEventListener("click", (event) => {
  if (event.target.dataset?.copy !== undefined) copy(event.target.closest(".code-block").querySelector("code").textContent, event.target);
});

export function question(message, actions) {
  const text = make("div", { className: "text", textContent: message.content });
  const opens = button("Edit", () => edit());
  const made = make("article", { className: "user", ariaLabel: "You" }, text,
    make("footer", {}, opens, button("Copy", (event) => copy(message.content, event.target))));

  function edit() {
    const rows = Math.min(12, message.content.split("\n").length + 1);
    const field = make("textarea", { value: message.content, rows, ariaLabel: "Your message" });
    const cancel = () => {
      form.replaceWith(text);
      made.classList.remove("editing");
      opens.focus();
    };
    const form = make("form", { className: "edit" }, field, make("div", { className: "buttons" },
      make("button", { type: "submit", className: "primary", textContent: "Send again" }),
      button("Cancel", cancel)));
    form.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      cancel();
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      if (field.value.trim()) actions.edit(field.value);
    };
    made.classList.add("editing");
    text.replaceWith(form);
    field.focus();
  }
  return made;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

// A call with what it was called with, and its result, or a field for it.
function card(call, result, asks) {
  const { name } = call.function;
  const field = () => make("textarea", { name: call.id, rows: 2, required: true, ariaLabel: `Result of ${name}`, placeholder: "Result" });
  const known = () => make("div", { className: "result" },
    make("h4", { textContent: "Result" }), make("pre", { tabIndex: 0, textContent: result }));
  return make("section", { className: "card", ariaLabel: `Tool call: ${name}` },
    make("h3", {}, make("span", { className: "tag", textContent: "tool" }), name),
    make("pre", { tabIndex: 0 }, make("code", { textContent: pretty(call.function.arguments) })),
    result !== undefined ? known() : asks ? field() : null);
}

const FINISH = { __proto__: null, stopped: "stopped", length: "cut at the limit", insufficient_system_resource: "cut: the device ran out of memory" };

function summary(figures) {
  const words = [FINISH[figures.finish]];
  if (figures.completion) words.push((figures.exact ? "" : "about ") + count(figures.completion, "token"));
  if (figures.rate) words.push(`${figures.rate.toFixed(figures.rate < 10 ? 1 : 0)} tokens/s`);
  if (figures.prompt) words.push(`prompt ${figures.prompt.toLocaleString("en")}, ${figures.cached.toLocaleString("en")} cached`);
  return words.filter(Boolean).join(" · ");
}

export class Answer {
  // results: texts by call id, where there are any; actions: regenerate(), results(texts by id), may be null.
  constructor(message, results, actions) {
    this.message = message;
    this.progress = make("progress", { ariaLabel: "Prompt read", max: 1 });
    this.reading = make("div", { className: "reading", hidden: true }, this.progress, make("span"));
    this.label = make("summary");
    this.thoughts = make("div", { className: "thoughts" });
    this.thinking = make("details", { className: "thinking", hidden: true }, this.label, this.thoughts);
    this.label.onclick = () => { this.touched = true; };
    this.text = make("div", { className: "text markdown" });
    this.cards = make("form", { className: "cards", hidden: true });
    this.figures = make("span", { className: "figures" });
    this.element = make("article", { className: "assistant", ariaLabel: "Model" }, this.reading, this.thinking, this.text, this.cards,
      make("footer", {}, this.figures, make("span", { className: "buttons", hidden: true },
        actions?.regenerate ? button("Regenerate", actions.regenerate) : null,
        button("Copy", (event) => copy(message.content, event.target)))));
    this.results = results;
    this.actions = actions;
    this.update(null);
  }

  // live: what is known of an answer on its way, null of one that has ended.
  update(live) {
    const { message } = this;
    const figures = message.figures || {};
    const reading = live && !live.began;
    this.reading.hidden = !reading;
    if (reading) this.read(live.progress);
    this.thinking.hidden = !message.reasoning_content;
    if (message.reasoning_content) this.think(live, figures);
    show(this.text, message.content);
    this.call(live);
    this.figures.textContent = live ? "" : summary(figures);
    this.element.querySelector("footer .buttons").hidden = !!live;
    this.element.querySelector("footer").hidden = !!live;
  }

  read(progress) {
    const text = this.reading.lastElementChild;
    if (progress) {
      this.progress.max = progress.total;
      this.progress.value = progress.done;
      text.textContent = `Reading: ${progress.done.toLocaleString("en")} of ${count(progress.total, "token")}` +
        (progress.cached ? `, ${progress.cached.toLocaleString("en")} cached` : "");
    } else {
      this.progress.removeAttribute("value");
      text.textContent = "Waiting";
    }
  }

  think(live, figures) {
    const thinks = live && !this.message.content && !this.message.tool_calls;
    const known = [figures.think_seconds && seconds(figures.think_seconds), figures.reasoning && count(figures.reasoning, "token")];
    this.label.textContent = [thinks ? "Thinking" : "Thought", ...known.filter(Boolean)].join(" · ");
    if (!this.touched) this.thinking.open = !!thinks;
    if (this.thoughts.textContent !== this.message.reasoning_content) this.thoughts.textContent = this.message.reasoning_content;
  }

  call(live) {
    const calls = this.message.tool_calls || [];
    this.cards.hidden = !calls.length;
    if (!calls.length || (!live && this.done)) return;
    const asks = !live && !!this.actions?.results;
    this.cards.replaceChildren(...calls.map((call) => card(call, this.results[call.id], asks)));
    if (asks) {
      const text = calls.length > 1 ? "Send results" : "Send result";
      this.cards.append(make("button", { type: "submit", className: "primary", textContent: text }));
      this.cards.onsubmit = (event) => {
        event.preventDefault();
        this.actions.results(Object.fromEntries(new FormData(this.cards)));
      };
    }
    this.done = !live;
  }
}

export function failure(text, again) {
  return make("article", { className: "failure", role: "alert" }, make("p", { textContent: text }), button("Try again", again));
}

export function welcome(model) {
  return make("div", { className: "welcome" }, make("h2", { textContent: model?.id ?? "" }),
    make("p", { textContent: model && `It reads up to ${count(model.max_input_tokens, "token")}. Conversations stay in this browser.` }));
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  let n = bytes, unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) { n /= 1024; unit++; }
  return `${unit ? n.toFixed(1) : n} ${UNITS[unit]}`;
}

export function device(list, status) {
  const { model, device: on, memory, scheduler } = status;
  const used = Object.values(memory.purposes).reduce((sum, one) => sum + one.used, 0);
  const known = scheduler.prompt_tokens ? ` (${Math.round(100 * scheduler.cached_tokens / scheduler.prompt_tokens)} %)` : "";
  const rows = [
    ["Device", `${on.name} (${on.type})`], ["Driver", on.driver], ["Vulkan", on.api], ["Matrices", on.matmul],
    ["Model", `${model.id}, ${size(model.bytes)}`],
    ["Layers", `${model.n_layers}, width ${model.hidden_size}, ${model.n_experts_per_token} of ${model.n_experts} experts`],
    ["Memory used", size(used)],
    ...Object.entries(memory.purposes).map(([name, one]) => [`– ${name}`, `${size(one.used)}, at most ${size(one.peak)}`]),
    ["Memory free", memory.heap.free === undefined ? "unknown" : size(memory.heap.free)],
    ["Requests", `${scheduler.running} running, ${scheduler.waiting} waiting, ${scheduler.finished} finished`],
    ["Tokens", `${scheduler.prompt_tokens.toLocaleString("en")} read, ${scheduler.completion_tokens.toLocaleString("en")} written`],
    ["Cache hits", `${scheduler.cached_tokens.toLocaleString("en")} tokens${known}`],
    ["Cache", `${scheduler.cache.entries} prefixes, ${size(scheduler.cache.bytes)}`],
    ["dsvk", status.version],
  ];
  list.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
}
