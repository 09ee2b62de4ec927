"""The web page: how it is served, and, where Chromium and playwright are installed, what it does in a browser."""
import json
import os
import re
import shutil
import time

import pytest

pytest.importorskip("uvicorn"), pytest.importorskip("starlette"), pytest.importorskip("pydantic")
httpx = pytest.importorskip("httpx")

import dsvk
from dsvk.server import Engine
from dsvk.server.page import FILES
from serving import Script, served
from test_terminal import CALL, WEATHER

CHROMIUM = shutil.which("chromium")


class Slow(Script):
    """Answers that take their time when told so, and a scheduler's report."""

    def __init__(self, nano):
        super().__init__(nano.tokenizer)
        self.pause = 0.0
        with dsvk.Scheduler(nano) as scheduler:
            self.report = scheduler.report

    def events(self, *parameters):
        for event in super().events(*parameters):
            if self.pause:
                yield self.pause
            yield event


@pytest.fixture(scope="module")
def script(nano):
    return Slow(nano)


@pytest.fixture(scope="module")
def url(nano, script):
    with served(Engine(nano, "nano", scheduler=script)) as url:
        yield url


# ---- served ----

def test_every_file_is_served_with_a_policy(url):
    assert {"/", "/page/app.js", "/page/style.css"} <= set(FILES)
    for path in FILES:
        answer = httpx.get(url + path)
        assert answer.status_code == 200 and answer.content, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ") and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and "charset=utf-8" in answer.headers["content-type"]
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", answer.content.replace(b"https?:", b"")), path
        assert not re.search(rb"\sstyle=|\son[a-z]+=\"|innerHTML|eval\(", answer.content), path
    assert httpx.get(url + "/page/none.js").status_code == 404 and httpx.get(url + "/page/../app.py").status_code == 404


def test_the_root_is_a_page_for_browsers_alone(url):
    assert "<html" in httpx.get(url + "/").text
    assert "<html" in httpx.get(url + "/", headers={"accept": "text/html,application/xhtml+xml"}).text
    answer = httpx.get(url + "/", headers={"accept": "application/json"})
    assert answer.status_code == 406 and answer.json()["error"]["param"] == "accept"
    answer = httpx.head(url + "/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert httpx.post(url + "/").status_code == 405


def test_S15_only_the_page_itself_may_ask(url, script):
    body = {"model": "nano", "messages": [{"role": "user", "content": "?"}]}
    script.answers.clear()
    script.say("x")
    host = url.removeprefix("http://")
    assert httpx.post(url + "/v1/chat/completions", json=body, headers={"origin": url}).status_code == 200
    for origin in ("http://127.0.0.1", f"http://{host}.example", f"http://example/{host}", f"{host}", "null", "", url + "/"):
        answer = httpx.post(url + "/v1/chat/completions", json=body, headers={"origin": origin})
        assert answer.status_code == 403, origin


def test_status(url, nano):
    told = httpx.get(url + "/status").json()
    assert told["model"]["id"] == "nano" and told["model"]["context"] == nano.config["max_positions"]
    assert told["device"]["name"] == nano.device.info["name"] and told["version"] == dsvk.__version__
    assert told["memory"]["purposes"]["weights"]["used"] > 0 and told["scheduler"]["running"] == 0


def test_S12_the_page_needs_a_key_and_a_browser_is_told_to_ask_for_it(nano, script):
    with served(Engine(nano, "nano", scheduler=Slow(nano)), keys=["the-key"]) as url:
        for path in [*FILES, "/status", "/page/none.js"]:
            refused = [httpx.get(url + path, auth=auth) for auth in (None, ("", "the-keyx"), ("the-key", ""))]
            assert {answer.status_code for answer in refused} == {401}, path
            assert {answer.headers["www-authenticate"].split()[0] for answer in refused} == {"Basic" if path in FILES else "Bearer"}
        for path in [*FILES, "/status", "/v1/models"]:
            assert {httpx.get(url + path, auth=(name, "the-key")).status_code for name in ("", "anybody")} == {200}, path


def chunks(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_progress_of_the_prompt_is_told_to_those_who_ask(nano, url, script):
    body = {"model": "nano", "messages": [{"role": "user", "content": "To be, or not to be? " * 18}], "stream": True, "max_tokens": 1}
    script.answers.clear()
    script.say("x")
    plain = chunks(httpx.post(url + "/v1/chat/completions", json=body).text)
    assert not any("prompt_progress" in chunk for chunk in plain) and all(chunk["choices"] for chunk in plain)
    body["stream_options"] = {"include_progress": True, "include_usage": True}
    with dsvk.Scheduler(nano, chunk=64) as scheduler, served(Engine(nano, "nano", scheduler=scheduler)) as url:
        first, second = (chunks(httpx.post(url + "/v1/chat/completions", json=body, timeout=60).text) for _ in range(2))
    progress = [chunk["prompt_progress"] for chunk in first if "prompt_progress" in chunk]
    done, total = [one["done"] for one in progress], first[-1]["usage"]["prompt_tokens"]
    assert len(done) > 2 and done == sorted(set(done)) and done[-1] == total and all(one["total"] == total for one in progress)
    assert all(chunk["choices"] == [] and chunk["usage"] is None for chunk in first if "prompt_progress" in chunk)
    assert {"total": total, "cached": second[-1]["usage"]["prompt_cache_hit_tokens"], "done": total} in [
        chunk.get("prompt_progress") for chunk in second] and second[-1]["usage"]["prompt_cache_hit_tokens"] > 0


# ---- in a browser ----

@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url, script):
    """The page at its address, in a profile of its own; nothing may be asked of another server, and nothing may go wrong unseen."""
    script.answers.clear()
    script.pause = 0.0
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda request: request.url.startswith((url, "blob:" + url)) or wrong.append(request.url))
    page.goto(url)
    page.wait_for_selector("#device dd")
    page.wrong = wrong
    yield page
    context.close()
    assert wrong == []


def ask(page, text):
    page.fill("#question", text)
    page.press("#question", "Enter")


def until(page, condition):
    """Playwright's own wait_for_function needs eval, which the page's policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def ended(page, answers=1):
    until(page, f"document.querySelectorAll('article.assistant').length === {answers} && messages.ariaBusy === 'false'")


MARKUP = """# Title

**bold**, *slanted*, _too_, ~~gone~~, \\*not\\*, `code <b>`  
and [a link](https://example.org/a_(b)), not [this](javascript:alert(1)).

> said

---

- one
  1. inner
- two

| a | b |
|---|---|
| 1 | 2 |

```html
<script>alert(1)</script>
```

<img src=x onerror=alert(1)> <b>text</b>"""


def test_an_answer_is_shown_and_markup_in_it_stays_text(page, script):
    script.say("Let me <b>think</b>.</think>" + MARKUP)
    ask(page, "<i>Hello</i>")
    ended(page)
    assert page.inner_text("article.user .text") == "<i>Hello</i>"
    assert re.fullmatch(r"Thought · [\d.]+ s · \d+ tokens", page.inner_text(".thinking summary"))
    assert not page.is_visible(".thoughts")
    page.click(".thinking summary")
    assert page.inner_text(".thoughts") == "Let me <b>think</b>."
    found = page.evaluate("[...document.querySelectorAll('.markdown *')].map((one) => one.localName)")
    assert set(found) == {"div", "h3", "p", "strong", "em", "del", "code", "br", "a", "blockquote", "hr", "ul", "ol", "li", "table", "thead",
                          "tbody", "tr", "th", "td", "span", "button", "pre"}
    assert "*not*" in page.inner_text(".markdown")
    assert page.eval_on_selector_all(".markdown a", "(all) => all.map((one) => [one.href, one.rel])") == [
        ["https://example.org/a_(b)", "noopener noreferrer"]]
    assert page.inner_text(".markdown pre") == "<script>alert(1)</script>"
    assert "<img src=x onerror=alert(1)> <b>text</b>" in page.inner_text(".markdown") and "not this." in page.inner_text(".markdown")
    assert re.search(r"\d+ tokens .* prompt \d+, 0 cached", page.inner_text("article.assistant footer"))
    assert re.search(r"\d+ of 65,536", page.inner_text("#context-text"))
    assert page.title() == "<i>Hello</i> – dsvk" and page.inner_text("#conversations .open") == "<i>Hello</i>"


def test_a_tool_is_called_and_its_result_sent(page, script, nano):
    script.say("Look.</think>" + CALL, "</think>Warm.")
    page.fill("[name=tools]", json.dumps([WEATHER]))
    page.fill("[name=system]", "Be brief.")
    ask(page, "Bern?")
    ended(page)
    assert json.loads(page.inner_text(".card pre")) == {"city": "Bern\nand Chur", "days": 1}
    assert page.is_disabled("#send")
    page.reload()      # a call outlives the page
    page.fill(".card textarea", "20 degrees")
    page.click(".cards button[type=submit]")
    ended(page, 2)
    assert page.inner_text("article.assistant >> nth=1 >> .text") == "Warm." and "20 degrees" in page.inner_text(".card .result")
    prompt = nano.tokenizer.decode(script.prompts[-1])
    assert "Be brief." in prompt and "20 degrees" in prompt and "Look." in prompt and '"weather"' in prompt


def test_what_is_written_or_pressed_before_the_model_is_known(page, script):
    script.say("</think>" + CALL, "</think>Warm.", "</think>Cold.")
    page.fill("[name=tools]", json.dumps([WEATHER]))
    ask(page, "Bern?")
    ended(page)
    held = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.reload()
    page.fill(".card textarea", "20 degrees")
    until(page, "document.querySelector('.card textarea')?.value === '20 degrees'")
    assert page.inner_text("#context-text") == ""
    held.pop().continue_()
    until(page, "document.getElementById('context-text').textContent !== ''")
    assert page.input_value(".card textarea") == "20 degrees"
    page.reload()
    page.fill(".card textarea", "20 degrees")
    page.click(".cards button[type=submit]")
    answered_once_known(page, held, 2, "Warm.")
    page.click("#new")
    page.reload()
    ask(page, "Chur?")
    answered_once_known(page, held, 1, "Cold.")


def answered_once_known(page, held, answers, text):
    until(page, f"document.querySelectorAll('article.assistant').length === {answers}")
    while held:
        held.pop().continue_()
    ended(page, answers)
    assert page.inner_text("article.assistant >> nth=-1 >> .text") == text and not page.query_selector(".failure")


def test_stop_regenerate_edit(page, script, nano):
    script.pause = 0.05
    script.say("</think>" + "Long and longer. " * 50, "</think>Better.", "</think>Other.", "</think>Last.")
    ask(page, "First?")
    until(page, "document.querySelector('.markdown')?.textContent.length > 5")
    assert page.get_attribute("#messages", "aria-busy") == "true" and page.is_hidden("#send")
    page.click("#stop")
    ended(page)
    assert re.match(r"stopped · about \d+ tokens? · .*prompt \d+, 0 cached", page.inner_text("article.assistant footer"))
    script.pause = 0.0
    page.click("text=Regenerate")
    page.wait_for_selector("text=Better.")
    ended(page)
    ask(page, "Second?")
    ended(page, 2)
    page.click("article.user >> nth=0 >> text=Edit")
    page.fill(".edit textarea", "Third?")
    page.click("text=Send again")
    page.wait_for_selector("text=Last.")
    ended(page)
    assert page.locator("article.user").count() == 1 and page.title() == "Third? – dsvk"
    assert "First?" not in nano.tokenizer.decode(script.prompts[-1])


def test_conversations_are_kept_exported_and_imported(page, script, tmp_path):
    script.say("</think>One.", "</think>Two.")
    ask(page, "First?")
    ended(page)
    page.click("#new")
    ask(page, "Second?")
    page.wait_for_selector("text=Two.")
    page.reload()
    assert page.locator("#conversations li").count() == 2 and page.inner_text("article.assistant .text") == "Two."
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "export.json")
    exported = json.loads((tmp_path / "export.json").read_text())
    assert [one["title"] for one in exported["conversations"]] == ["Second?", "First?"]
    page.on("dialog", lambda dialog: dialog.accept())
    for left in (1, 0):
        page.click("#conversations .delete >> nth=0")
        until(page, f"document.querySelectorAll('#conversations li').length === {left}")
    page.set_input_files("#file", tmp_path / "export.json")
    until(page, "document.querySelectorAll('#conversations li').length === 2")
    body = {"model": "x", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Saved?"},
                                       {"role": "assistant", "content": "Yes."}], "thinking": {"type": "disabled"}, "tools": [WEATHER]}
    (tmp_path / "saved.json").write_text(json.dumps(body))      # as dsvk chat saves it
    page.set_input_files("#file", tmp_path / "saved.json")
    page.click("#conversations .open >> text=Saved?")
    assert page.inner_text("article.assistant .text") == "Yes." and page.input_value("[name=system]") == "Be brief."
    assert not page.is_checked("[name=thinking]") and json.loads(page.input_value("[name=tools]")) == [WEATHER]
    for content, said in (("{", "The file is no JSON"), ('{"messages": [{"role": "x"}]}', "no conversations"), ("[]", "no conversations")):
        (tmp_path / "bad.json").write_text(content)
        page.set_input_files("#file", tmp_path / "bad.json")
        page.wait_for_selector(f".failure >> text={said}")
        page.click(".failure button")


def test_what_goes_wrong_is_said(page, script):
    script.refusal = dsvk.BusyError("too many wait")
    ask(page, "Hello?")
    page.wait_for_selector(".failure >> text=too many wait")
    script.refusal = None
    script.say("</think>Yes.")
    page.click("text=Try again")
    ended(page)
    assert page.locator(".failure").count() == 0
    page.fill("[name=tools]", "{}")
    assert page.inner_text("#settings-error") == "Tools: expected a list"
    page.fill("[name=tools]", "")
    page.fill("[name=temperature]", "3")
    assert page.inner_text("#settings-error").startswith("Temperature: ")
    assert any("429" in text for text in page.wrong)      # the browser's own note
    page.wrong.clear()


def test_an_answer_that_breaks_off_is_asked_for_again(page, script):
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": None}]}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream",
                                                                      body=f"data: {json.dumps(chunk)}\n\n"))
    ask(page, "Hello?")
    page.wait_for_selector(".failure >> text=broke off")
    assert page.inner_text("article.assistant .text") == "Half"
    page.unroute("**/v1/chat/completions")
    script.say("</think>Whole.")
    page.click("text=Try again")
    page.wait_for_selector("text=Whole.")
    ended(page)
    assert page.locator(".failure").count() == 0 and page.locator("text=Half").count() == 0


def test_stopped_before_the_first_token(page, script):
    script.say(("</think>Late.", 20.0), "</think>Later.")      # silent so long
    ask(page, "Hello?")
    until(page, "!document.querySelector('#stop').hidden")
    page.click("#stop")
    page.wait_for_selector(".failure >> text=Stopped before")
    page.click("text=Try again")
    ended(page)
    assert page.locator("article.user").count() == 1 and page.locator(".failure").count() == 0


def test_an_imported_file_may_hold_anything(page, tmp_path):
    odd = [{"rate": "x"}, {"prompt": 5}, {"completion": "<b>"}, {"think_seconds": "abc", "rate": None}, {"finish": "constructor"}, 3]
    conversations = [{"id": f"odd{i}", "title": f"Odd {i}", "settings": {"effort": "medium"},
                      "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "figures": figures}]}
                     for i, figures in enumerate(odd)]
    (tmp_path / "odd.json").write_text(json.dumps({"conversations": conversations}))
    page.set_input_files("#file", tmp_path / "odd.json")
    for i in range(len(odd)):
        page.click(f"#conversations .open >> text=Odd {i}")
        assert page.inner_text("article.assistant .text") == "A" and page.input_value("[name=effort]") == "high"
    page.reload()
    assert page.locator("#conversations li").count() == len(odd) and page.inner_text("article.assistant .text") == "A"


def test_two_tabs_and_a_file_lose_no_turn(page, script, url, tmp_path):
    script.say("</think>One.", "</think>Two.", "</think>Three.")
    ask(page, "First?")
    ended(page)
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "before.json")
    other = page.context.new_page()
    other.goto(url)
    ended(other)
    ask(other, "Second?")
    ended(other, 2)
    ended(page, 2)      # follows
    ask(page, "Third?")
    ended(page, 3)
    other.reload()
    ended(other, 3)
    other.close()
    page.set_input_files("#file", tmp_path / "before.json")      # stands beside what has gone on since
    until(page, "document.querySelectorAll('#conversations li').length === 2")
    page.reload()
    ended(page, 3)
    page.set_input_files("#file", tmp_path / "before.json")
    page.wait_for_timeout(200)
    page.click("#conversations .open:not([aria-current])")
    ended(page, 1)


def test_a_key_is_asked_for_by_the_browser(browser, nano):
    slow = Slow(nano)
    with served(Engine(nano, "nano", scheduler=slow), keys=["the-key"]) as url:
        for key, shown in (("wrong", "the API key is missing or wrong"), ("the-key", "Conversations stay in this browser")):
            with browser.new_context(http_credentials={"username": "", "password": key}) as context:      # as typed when it asks
                page = context.new_page()
                page.goto(url)
                page.wait_for_selector(f"text={shown}")
                if key == "wrong":
                    continue
                slow.say("</think>With a key.")
                ask(page, "Hello?")
                page.wait_for_selector("text=With a key.")
                page.route("**/v1/*", lambda route: route.fulfill(status=401, json={"error": {"message": "of another key"}}))
                page.reload()
                page.wait_for_selector(".failure >> text=Load this page anew")


def test_drawers_by_keyboard_on_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    until(page, "document.getElementById('panel').inert")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for name in ("list", "panel"):
        page.focus(f"#show-{name}")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#{name}.open")
        assert page.evaluate("[main.inert, document.activeElement.dataset.close]") == [True, name]
        page.keyboard.press("Escape")
        assert page.evaluate("[main.inert, document.activeElement.id]") == [False, f"show-{name}"]


CONTRAST = """(selectors) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (one) => one.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  return selectors.map((selector) => {
    const element = document.querySelector(selector);
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const under = getComputedStyle(ground).backgroundColor;
    const pair = [light(rgb(getComputedStyle(element).color, under)), light(rgb(under, under))].sort((a, b) => b - a);
    return [selector, (pair[0] + 0.05) / (pair[1] + 0.05)];
  });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(page, script, theme):
    script.say("Hm.</think>A [link](https://example.org) and `code`.\n\n> quote\n\n```py\nx\n```" + CALL)
    page.fill("[name=tools]", json.dumps([WEATHER]))
    ask(page, "Hello?")
    ended(page)
    page.select_option("#theme", theme)
    unnamed = page.evaluate("""[...document.querySelectorAll(
        "button, input, select, textarea, meter, progress, summary, a, nav, aside, article")].filter((one) =>
        !(one.ariaLabel || one.textContent.trim() || one.labels?.length || one.placeholder)).map((one) => one.outerHTML)""")
    assert unnamed == []
    for selector, ratio in page.evaluate(CONTRAST, [
            "body", "h1", "article.user .text", "article.user footer button", ".thinking summary", ".figures", ".markdown a",
            ".markdown code", ".markdown p", ".card h3", ".card .tag", ".card pre", "#figures", "#new", "#conversations .open",
            "#conversations .delete", "#device dt", "#settings label", "#show-panel", ".cards button[type=submit]"]):
        assert ratio >= 4.5, (selector, ratio)
