// Markdown to elements. Text only ever becomes text nodes, links lead to http, https and mailto only, and nothing is loaded, so
// what a model writes can be shown as it comes.

const INLINE = new RegExp([
  /(?<code>`+)(?<inside>[^]*?[^`])\k<code>(?!`)/,
  /\*\*(?<bold>(?=\S)[^]*?\S)\*\*/,
  /(?<![\w*])\*(?<star>(?=[^\s*])[^*]*?[^\s*])\*(?!\*)/,
  /(?<![\w_])_(?<under>(?=[^\s_])[^_]*?[^\s_])_(?![\w_])/,
  /~~(?<struck>(?=\S)[^]*?\S)~~/,
  /!?\[(?<label>[^\]\n]*)\]\((?<target>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"\n]*")?\)/,
  /(?<bare>https?:\/\/[^\s<>()]*[^\s<>().,;:!?'"])/,
  /\\(?<escaped>[\\`*_{}[\]()#+\-.!|~>])/,
  /(?<hard> {2,}\n)/,
].map((one) => one.source).join("|"), "g");

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function link(target, label) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return label;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return label;
  const made = element("a", label);
  made.href = url.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

function inline(text, depth = 0) {
  const made = document.createDocumentFragment();
  let at = 0;
  for (const match of depth < 8 ? text.matchAll(INLINE) : []) {
    const g = match.groups;
    made.append(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (g.inside !== undefined) made.append(element("code", g.inside.replace(/^ (.*[^ ].*) $/, "$1")));
    else if (g.bold) made.append(element("strong", inline(g.bold, depth + 1)));
    else if (g.star || g.under) made.append(element("em", inline(g.star || g.under, depth + 1)));
    else if (g.struck) made.append(element("del", inline(g.struck, depth + 1)));
    else if (g.target !== undefined) made.append(link(g.target, inline(g.label, depth + 1)));
    else if (g.bare) made.append(link(g.bare, g.bare));
    else if (g.escaped) made.append(g.escaped);
    else made.append(element("br"));
  }
  made.append(text.slice(at));
  return made;
}

function codeBlock(language, text) {
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.dataset.copy = "";
  const head = element("div", element("span", language), copy);
  head.className = "code-head";
  const pre = element("pre", element("code", text));
  pre.tabIndex = 0;      // it scrolls sideways
  const made = element("div", head, pre);
  made.className = "code-block";
  return made;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const BEGINS = /^ {0,3}(#{1,6}\s|>|`{3,}|~{3,})/;

const closes = (line, fence) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((one) => one.trim());

function table(lines) {
  const row = (line, name) => element("tr", ...cells(line).map((one) => element(name, inline(one))));
  const made = element("table", element("thead", row(lines[0], "th")), element("tbody", ...lines.slice(2).map((one) => row(one, "td"))));
  const around = element("div", made);
  around.className = "table";
  around.tabIndex = 0;
  return around;
}

// Items at the depth of the first line; what is deeper belongs to the item above it.
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const made = element(/\d/.test(mark) ? "ol" : "ul");
  if (/\d/.test(mark)) made.start = parseInt(mark, 10);
  for (let i = 0; i < lines.length;) {
    const first = ITEM.exec(lines[i]);
    const inside = [first ? first[3] : lines[i].trim()];
    let end = i + 1;
    while (end < lines.length && !(ITEM.test(lines[end]) && ITEM.exec(lines[end])[1].length <= indent.length)) inside.push(lines[end++]);
    const strip = Math.min(...inside.slice(1).filter((one) => one.trim()).map((one) => one.length - one.trimStart().length), 8);
    made.append(element("li", blocks([inside[0], ...inside.slice(1).map((one) => one.slice(strip))], depth + 1, true)));
    i = end;
  }
  return made;
}

function blocks(lines, depth = 0, tight = false) {
  const made = document.createDocumentFragment();
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    let end = i + 1;
    const take = (goes) => {
      while (end < lines.length && goes(lines[end])) end++;
      return lines.slice(i, end);
    };
    if (!line.trim()) {
      end = i + 1;
    } else if (fence) {
      const body = take((one) => !closes(one, fence[1]));
      made.append(codeBlock(fence[2], body.slice(1).join("\n")));
      end += 1;
    } else if (/^ {0,3}#{1,6}\s/.test(line)) {
      const level = line.trim().indexOf(" ") < 0 ? 1 : /^#+/.exec(line.trim())[0].length;
      made.append(element(`h${Math.min(6, level + 2)}`, inline(line.trim().replace(/^#+\s+|\s+#+$/g, ""))));
    } else if (RULE.test(line)) {
      made.append(element("hr"));
    } else if (/^ {0,3}>/.test(line) && depth < 8) {
      const body = take((one) => /^ {0,3}>/.test(one)).map((one) => one.replace(/^ {0,3}> ?/, ""));
      made.append(element("blockquote", blocks(body, depth + 1)));
    } else if (ITEM.test(line) && depth < 8) {
      const indent = ITEM.exec(line)[1].length;
      made.append(list(take((one) => one.trim() && (ITEM.test(one) || one.length - one.trimStart().length > indent)), depth));
    } else if (line.includes("|") && DIVIDER.test(lines[i + 1] ?? "") && lines[i + 1].includes("-")) {
      made.append(table(take((one) => one.includes("|"))));
    } else {
      const text = inline(take((one) => one.trim() && !BEGINS.test(one) && !ITEM.test(one) && !RULE.test(one)).join("\n"));
      made.append(tight && end === lines.length && i === 0 ? text : element("p", text));
    }
    i = end;
  }
  return made;
}

// Parts that are blocks for themselves: text is cut at empty lines, but not inside of code.
function parts(text) {
  const made = [];
  let lines = [], fence = "";
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line);
    if (fence ? closes(line, fence) : mark) fence = fence ? "" : mark[1];
    if (!line.trim() && !fence) {
      if (lines.length) made.push(lines.join("\n"));
      lines = [];
    } else {
      lines.push(line);
    }
  }
  if (lines.length) made.push(lines.join("\n"));
  return made;
}

const shown = new WeakMap();

// Shows a text in a container; of a text that grows only the last part is made anew.
export function show(container, text) {
  const before = shown.get(container) || [];
  const now = parts(text);
  let same = 0;
  while (same < before.length && same < now.length && before[same] === now[same]) same++;
  while (container.childElementCount > same) container.lastElementChild.remove();
  for (const part of now.slice(same)) container.append(element("div", blocks(part.split("\n"))));
  shown.set(container, now);
}
