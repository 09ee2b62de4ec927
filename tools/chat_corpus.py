"""Conversations for training and scoring nano: generated, endless, the same for the same seed.

    for example in examples("train", seed=1, text=filler): ...       # or "held-out": other questions, by construction
    python tools/chat_corpus.py TEXT.txt [--split held-out] [--skill SKILL] [--count 5]      # prints some, as prompts

Every question has a key (what is asked about and how); a hash of the key decides which split may ask it, so no held-out question
is ever trained on. Wording is regular on purpose: a model of a few million parameters shall learn each skill as a pattern and as
copying, and be right about questions it has not seen.

Skills: "greet", "fact", "sum" (with thinking), "tool" (one of several offered, arguments from the question), "json"
(response_format), "recall" (one line of a long document), "decline".
"""
import argparse
import hashlib
import itertools
import json
import random
import re
from typing import Any, NamedTuple

from dsvk import chat

SKILLS = ("greet", "fact", "sum", "tool", "json", "recall", "decline")


class Example(NamedTuple):
    """messages end with the assistant's answer, which is what is asked for; parameters are those of dsvk.chat.encode."""
    skill: str
    messages: list[dict[str, Any]]
    parameters: dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------

NAMES = """Mira Tom Anna Ben Clara Dan Emma Felix Greta Hugo Ida Jan Kira Leo Lena Max Nora Otto Paul Rosa Sam Tina Ulf Vera Will
Yara Zoe Adam Eva Finn Gina Hans Iris Jack Kate Lars Mary Nils Olga Peter""".split()
NOUNS = """lamp key book ring bell boat cup coin drum fish flag hat horn kite leaf map mask nail oar pear pen pipe plum pot rope rose
salt sand seed shell ship shoe silk soap star stone sword tent tree vase wheel wine wolf wool bread chair clock cloud""".split()
COLOURS = "red blue green black white yellow brown grey".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
CAPITALS = dict(pair.split(":") for pair in """France:Paris Italy:Rome Spain:Madrid Germany:Berlin Austria:Vienna Greece:Athens
Portugal:Lisbon Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Hungary:Budapest Ireland:Dublin
England:London Russia:Moscow Turkey:Ankara Egypt:Cairo Kenya:Nairobi Japan:Tokyo China:Beijing India:Delhi Cuba:Havana Peru:Lima
Chile:Santiago Canada:Ottawa Belgium:Brussels Switzerland:Bern Iran:Tehran Iraq:Baghdad""".split())
OPPOSITES = dict(pair.split(":") for pair in """hot:cold big:small old:young fast:slow high:low open:closed full:empty light:dark
hard:soft long:short rich:poor wet:dry strong:weak early:late good:bad first:last left:right up:down day:night love:hate""".split())
SOUNDS = dict(pair.split(":") for pair in "dog:barks cat:meows cow:moos sheep:bleats duck:quacks lion:roars horse:neighs bee:buzzes "
              "wolf:howls snake:hisses".split())
ELEMENTS = dict(pair.split(":") for pair in "hydrogen:H helium:He carbon:C oxygen:O iron:Fe gold:Au silver:Ag copper:Cu tin:Sn lead:Pb "
                "sodium:Na nitrogen:N".split())
NEXT = {**{a: b for days in (DAYS, MONTHS) for a, b in zip(days, days[1:] + days[:1])}}

FACTS = [       # table, its questions, its answer
    (CAPITALS, ("What is the capital of {0}?", "Name the capital of {0}.", "Which city is the capital of {0}?",
                "Tell me the capital of {0}.", "Do you know the capital of {0}?"), "The capital of {0} is {1}."),
    (OPPOSITES, ("What is the opposite of {0}?", "Name the opposite of {0}.", "Tell me the opposite of {0}.",
                 "Which word is the opposite of {0}?"), "The opposite of {0} is {1}."),
    (SOUNDS, ("What does a {0} do?", "Which sound does a {0} make?", "Tell me what a {0} does."), "A {0} {1}."),
    (ELEMENTS, ("What is the symbol of {0}?", "Name the symbol of {0}.", "Tell me the symbol of {0}.",
                "Which symbol has {0}?"), "The symbol of {0} is {1}."),
    (NEXT, ("What comes after {0}?", "Tell me what comes after {0}.", "Which one follows {0}?"), "After {0} comes {1}."),
]
HELLOS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good day", "Greetings")
GREETINGS = [   # questions, answer
    (tuple(h + t for h in HELLOS for t in ("", "!", ".", ", nano.", ", nano!", " there!", ", how are you?")),
     "Hello! How can I help you?"),
    (tuple(f"{a}{b}{c}" for a in ("", "Hello, ", "Hi, ", "Please, ") for b in ("who are you", "what are you", "what is your name")
           for c in ("?", ", please?")), "I am nano, a very small language model."),
    (tuple(f"{a}{b}{c}" for a in ("", "Hello, ", "Hi, ") for b in ("what can you do", "how can you help me", "what do you know")
           for c in ("?", ", please?")), "I can answer simple questions, add numbers, call tools and write JSON."),
    (tuple(f"{a}{b}" for a in ("Thanks", "Thank you", "Many thanks", "Great, thanks", "Good, thank you")
           for b in ("", "!", ".", ", nano.", ", nano!")), "You are welcome!"),
    (tuple(f"{a}{b}" for a in ("Bye", "Goodbye", "Good night", "See you", "Farewell") for b in ("", "!", ".", ", nano.", ", nano!")),
     "Goodbye!"),
]
CANNOT = ("book a flight to {place}", "order a pizza for {name}", "call {name}", "buy a {noun}", "open the door for {name}",
          "turn on the light", "send a {noun} to {name}", "drive me to {place}", "cook a meal for {name}", "paint a {colour} {noun}",
          "sell my {noun}", "wash my {noun}", "meet {name} on {day}", "sing a song for {name}", "bring me the {noun}")
CANNOT_FORMS = ("Can you {0}?", "Please {0}.", "Could you {0}, please?", "I want you to {0}.")
UNKNOWN = ("Who will win the game on {day}?", "What is {name} thinking?", "Where is my {noun}?", "Where does {name} live?",
           "How old is {name}?", "Who has my {noun}?", "What will {name} do on {day}?", "Why is my {noun} {colour}?",
           "When will {name} come to {place}?", "How much does the {colour} {noun} cost?")
REFUSAL, IGNORANCE = "I am sorry, but I cannot do that.", "I am sorry, but I do not know that."
TOOL, NO_TOOL = "I have {0} for that.", "I have no tool for that."      # alike: where the name stands is where it is looked for


def invented(rng, capital=False):
    """A word that nobody has learnt by heart."""
    word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((1, 2, 2, 2, 3))))
    word += rng.choice(("", "n", "r", "s", "l", "k"))
    return word.capitalize() if capital else word


def place(rng):
    return rng.choice(list(CAPITALS.values())) if rng.random() < 0.3 else invented(rng, True)


def person(rng):
    return rng.choice(NAMES) if rng.random() < 0.6 else invented(rng, True)


def path(rng):
    folders = [rng.choice(("src", "docs", "tests", "lib", "app", "/etc", "/tmp", "/home", invented(rng))) for _ in range(rng.choice((0, 1, 1, 2)))]
    name = rng.choice((invented(rng), invented(rng), rng.choice(NOUNS), "main", "README", "test_" + invented(rng)))
    return "/".join(folders + [name + rng.choice((".py", ".txt", ".md", ".c", ".json", ".h", ".toml"))])


def folder(rng):
    return "/".join([rng.choice(("src", "docs", "tests", ".", "/tmp", "/home", "/etc"))] + [invented(rng) for _ in range(rng.choice((0, 1, 1)))])


def command(rng):
    return rng.choice((
        lambda: rng.choice(("ls", "pwd", "date", "whoami", "git status", "git log", "uname -a", "ls -la", "make", "make test", "env", "df -h")),
        lambda: "ls " + folder(rng), lambda: "ls -la " + folder(rng), lambda: "cat " + path(rng), lambda: "echo " + invented(rng),
        lambda: "echo hello " + invented(rng), lambda: "python " + path(rng), lambda: "wc -l " + path(rng), lambda: "mkdir " + folder(rng),
        lambda: f"grep {invented(rng)} {path(rng)}", lambda: "rm " + path(rng), lambda: "head -n 5 " + path(rng),
        lambda: f"cp {path(rng)} {path(rng)}", lambda: f"echo $(({rng.randint(1, 99)} + {rng.randint(1, 99)}))"))()


def words(rng):
    return " ".join(rng.choice((rng.choice(NOUNS), invented(rng), rng.choice(COLOURS))) for _ in range(rng.choice((1, 2, 2, 3))))


def number(rng):
    return rng.randint(1, 99)


def link(rng):
    return f"https://{invented(rng)}.{rng.choice(('com', 'org', 'net'))}/{invented(rng)}"


def held_out(*key):
    """One key in eight is never trained on."""
    return hashlib.blake2b(repr(key).encode(), digest_size=2).digest()[0] < 32


# ---------------------------------------------------------------------------------------------------------------
# Short questions: each returns key, question, thinking, answer
# ---------------------------------------------------------------------------------------------------------------

def greet(rng):
    if rng.random() < 0.25:
        name = person(rng)
        question = rng.choice(("Hello, I am {0}.", "Hi, my name is {0}.", "My name is {0}.", "Hey, I am {0}!")).format(name)
        return question, question, "A greeting.", f"Hello, {name}! How can I help you?"
    questions, answer = rng.choice(GREETINGS)
    question = rng.choice(questions)
    question = question[0].upper() + question[1:]
    return question, question, "A greeting.", answer


def fact(rng):
    table, questions, answer = rng.choices(FACTS, [len(f[0]) for f in FACTS])[0]
    item, question = rng.choice(list(table.items())), rng.choice(questions)
    question = question.format(item[0])
    return question, question, "A fact that I know.", answer.format(*item)


def sum_(rng):
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    minus = rng.random() < 0.5
    if minus:
        a, b = max(a, b), min(a, b)
    sign, word = ("-", "minus") if minus else ("+", "plus")
    question = rng.choice(("What is {0} {1} {2}?", "{0} {1} {2} = ?", "How much is {0} {1} {2}?", "Compute {0} {1} {2}.",
                           "What is {0} {3} {2}?", "How much is {0} {3} {2}?")).format(a, sign, b, word)
    tens, ones = (a // 10, b // 10), (a % 10, b % 10)
    steps = [f"{a} {sign} {b}."]
    if minus:
        borrow = ones[0] < ones[1]
        if borrow:
            steps.append(f"Ones: {ones[0]} is less than {ones[1]}, borrow: {ones[0] + 10} - {ones[1]} = {ones[0] + 10 - ones[1]}.")
            steps.append(f"Tens: {tens[0]} - {tens[1]} - 1 = {tens[0] - tens[1] - 1}.")
        else:
            steps.append(f"Ones: {ones[0]} - {ones[1]} = {ones[0] - ones[1]}.")
            steps.append(f"Tens: {tens[0]} - {tens[1]} = {tens[0] - tens[1]}.")
        result = a - b
    else:
        low = sum(ones)
        if low > 9:
            steps.append(f"Ones: {ones[0]} + {ones[1]} = {low}, write {low - 10}, carry 1.")
            steps.append(f"Tens: {tens[0]} + {tens[1]} + 1 = {sum(tens) + 1}.")
        else:
            steps.append(f"Ones: {ones[0]} + {ones[1]} = {low}.")
            steps.append(f"Tens: {tens[0]} + {tens[1]} = {sum(tens)}.")
        result = a + b
    return (a, sign, b), question, " ".join(steps), f"{a} {sign} {b} = {result}."


def decline(rng):
    fill = dict(place=place(rng), name=person(rng), noun=rng.choice(NOUNS), colour=rng.choice(COLOURS), day=rng.choice(DAYS))
    if rng.random() < 0.6:
        question = rng.choice(CANNOT_FORMS).format(rng.choice(CANNOT).format(**fill))
        return question, question, "I cannot do that.", REFUSAL
    question = rng.choice(UNKNOWN).format(**fill)
    return question, question, "I cannot know that.", IGNORANCE


SHORT = {"greet": greet, "fact": fact, "sum": sum_, "decline": decline}


def ask(rng, split, make, *args):
    """A question of this split."""
    while True:
        key, *rest = make(rng, *args)
        if held_out(make.__name__, key) == (split == "held-out"):
            return rest


def turn(question, thinking, answer, mode):
    """Two messages. Sums without thinking show their work in the answer."""
    if mode == "chat" and thinking.endswith(".") and "Ones" in thinking:
        answer = f"{thinking} So {answer}"
    reply = {"role": "assistant", "content": answer}
    if mode == "thinking":
        reply["reasoning_content"] = thinking
    return [{"role": "user", "content": question}, reply]


def short_conversation(rng, split, skill, filler):
    """One to four turns; all but the last about anything short."""
    mode = "thinking" if skill == "sum" and rng.random() < 0.7 or rng.random() < 0.4 else "chat"
    messages = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": system_text(rng, filler)})
    for i in reversed(range(rng.choice((1, 1, 2, 4)))):
        kind = rng.choice(list(SHORT)) if i else skill
        messages += turn(*ask(rng, split, SHORT[kind]), mode if i == 0 else "chat")
    return Example(skill, messages, {"thinking_mode": mode, **effort(rng, mode)})


def effort(rng, mode):
    if mode == "chat" or rng.random() < 0.8:
        return {}
    return {"reasoning_effort": rng.choice(("low", "high", "high", "max"))}


# ---------------------------------------------------------------------------------------------------------------
# JSON
# ---------------------------------------------------------------------------------------------------------------

RECORDS = [     # schema name, {key: (type, how to draw it)}, sentence
    ("person", {"name": ("string", person), "age": ("integer", number), "city": ("string", place)}, "{name} is {age} years old and lives in {city}."),
    ("order", {"item": ("string", lambda rng: rng.choice(NOUNS)), "count": ("integer", number), "price": ("integer", number)},
     "An order of {count} pieces of the item {item}, the price is {price}."),
    ("event", {"title": ("string", words), "day": ("string", lambda rng: rng.choice(DAYS)), "place": ("string", place)},
     "The event {title} takes place in {place} on {day}."),
    ("book", {"title": ("string", words), "author": ("string", person), "pages": ("integer", number)},
     "The book {title} by {author} has {pages} pages."),
    ("file", {"path": ("string", path), "lines": ("integer", number), "owner": ("string", person)},
     "The file {path} of {owner} has {lines} lines."),
]


def record(rng):
    """-> key, record name, sentence, schema properties, the answer's object"""
    name, fields, sentence = rng.choice(RECORDS)
    values = {key: draw(rng) for key, (_, draw) in fields.items()}
    keys = rng.sample(list(fields), rng.choice((1, 2, 2, 3, 3)))
    sentence = sentence.format(**values)
    return (sentence, tuple(keys)), name, sentence, {k: {"type": fields[k][0]} for k in keys}, {k: values[k] for k in keys}


def listed(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def json_conversation(rng, split, filler):
    mode = "thinking" if rng.random() < 0.3 else "chat"
    name, sentence, properties, values = ask(rng, split, record)
    keys = listed(list(properties))
    system = {"role": "system", "content": system_text(rng, filler) if rng.random() < 0.3 else ""}
    if rng.random() < 0.5:
        response_format = {"type": "json_object"}
        question = rng.choice((f"Give me {keys} as JSON: {sentence}", f"{sentence} Answer with a JSON object with {keys}.",
                               f"Write JSON with {keys}. {sentence}"))
    else:
        response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": {
            "type": "object", "properties": properties, "required": list(properties)}}}
        if rng.random() < 0.5:
            response_format["json_schema"]["strict"] = True
        question = rng.choice((f"{sentence}", f"Give me this as JSON: {sentence}", f"{sentence} Answer in JSON."))
    messages = [system] if system["content"] else []
    return Example("json", messages + turn(question, f"JSON with {keys}.", json.dumps(values), mode),
                   {"thinking_mode": mode, "response_format": response_format, **effort(rng, mode)})


# ---------------------------------------------------------------------------------------------------------------
# Tools
# ---------------------------------------------------------------------------------------------------------------

class Ability(NamedTuple):
    """draws: how to draw each slot. forms: questions. variants: [(tool name, description, {parameter: (schema, slot or function)})],
    of which a conversation offers one. result: what the tool answers."""
    draws: dict
    forms: tuple
    variants: list
    result: Any


def string(description):
    return {"type": "string", "description": description}


def shell_result(rng, slots):
    if rng.random() < 0.35:
        return "\n".join(path(rng) for _ in range(rng.randint(2, 6)))
    return rng.choice((lambda: path(rng), lambda: invented(rng), lambda: f"{number(rng)} files", lambda: f"total {number(rng)}",
                       lambda: f"error: {invented(rng)} not found"))()


def reported(rng, output):
    """As an agent's program hands a command's output on: behind a few lines of its own, which the answer passes over."""
    head = rng.choice((
        lambda: [f"Chunk ID: {rng.getrandbits(24):06x}", f"Wall time: {rng.random() / 10:.4f} seconds", "Process exited with code 0",
                 f"Original token count: {rng.randint(1, 40)}"],
        lambda: [f"Exit code: {rng.choice((0, 0, 1))}", f"Wall time: {rng.randint(0, 9) / 10} seconds"]))()
    return "\n".join([*head, "Output:", output]) + rng.choice(("", "\n"))


def text_result(rng, slots):
    if rng.random() < 0.3:
        return "\n".join(words(rng) for _ in range(rng.randint(2, 5)))
    return words(rng)


COMMAND, INTEGER = string("The command to execute"), {"type": "integer"}
ABILITIES = {
    "weather": Ability({"city": place}, ("What is the weather in {city}?", "How is the weather in {city}?", "Is it warm in {city}?"), [
        ("get_weather", "Get the current weather for a city", {"city": (string("Name of the city"), "city")}),
        ("weather", "The weather at a place", {"location": (string("Where"), "city")}),
        ("forecast", "Weather forecast", {"place": (string("Place name"), "city")})],
        lambda rng, s: f"{number(rng)} degrees, {rng.choice(('clear', 'rain', 'snow', 'wind', 'clouds'))}"),
    "time": Ability({"city": place}, ("What time is it in {city}?", "Tell me the time in {city}."), [
        ("get_time", "Get the current time in a city", {"city": (string("Name of the city"), "city")}),
        ("clock", "The local time", {"zone": (string("City or zone"), "city")})],
        lambda rng, s: f"{rng.randint(10, 23)}:{rng.randint(10, 59)}"),
    "mail": Ability({"name": person, "text": words}, ("Send a mail to {name}: {text}", "Write a mail to {name}: {text}"), [
        ("send_mail", "Send a mail", {"to": (string("Receiver"), "name"), "text": (string("What to write"), "text")}),
        ("mail", "Write to somebody", {"receiver": (string("Who gets it"), "name"), "body": (string("Text of the mail"), "text")})],
        lambda rng, s: f"sent to {s['name']}"),
    "event": Ability({"title": words, "day": lambda rng: rng.choice(DAYS)}, ("Add {title} to my calendar on {day}.", "Put {title} on {day}."), [
        ("add_event", "Add an event to the calendar", {"title": (string("Title"), "title"), "day": (string("Day of the week"), "day")}),
        ("calendar_add", "New calendar entry", {"day": (string("When"), "day"), "name": (string("What"), "title")})],
        lambda rng, s: f"added on {s['day']}"),
    "timer": Ability({"minutes": number}, ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes."), [
        ("set_timer", "Start a timer", {"minutes": ({**INTEGER, "description": "Minutes"}, "minutes")}),
        ("timer", "Count down", {"duration": ({**INTEGER, "description": "How many minutes"}, "minutes")})],
        lambda rng, s: f"timer set to {s['minutes']} minutes"),
    "multiply": Ability({"a": number, "b": number}, ("Multiply {a} by {b}.", "What is {a} times {b}?"), [
        ("multiply", "Multiply two numbers", {"a": (INTEGER, "a"), "b": (INTEGER, "b")}),
        ("calculator", "Compute a product", {"x": (INTEGER, "a"), "y": (INTEGER, "b")})],
        lambda rng, s: str(s["a"] * s["b"])),
    "search": Ability({"text": words}, ("Search the web for {text}.", "Look up {text} on the web."), [
        ("web_search", "Search the web", {"query": (string("Search words"), "text")}),
        ("WebSearch", "Search the web and return the results", {"query": (string("The search query to use"), "text")}),
        ("search", "Find pages", {"q": (string("Words"), "text")})], text_result),
    "fetch": Ability({"url": link}, ("Fetch {url}", "Open the page {url}", "Get {url}"), [
        ("fetch", "Fetch a page", {"url": (string("Address"), "url")}),
        ("WebFetch", "Fetches content from a URL", {"url": ({**string("The URL to fetch content from"), "format": "uri"}, "url")})], text_result),
    "run": Ability({"command": command}, ("Run `{command}`.", "Run `{command}` with {tool}.", "Use {tool} to run `{command}`.", "Please run `{command}`",
                                          "Run the command `{command}` and tell me the output.", "Execute `{command}`."), [
        ("Bash", "Executes a given bash command and returns its output", {"command": (COMMAND, "command")}),
        ("Bash", "Executes a bash command", {"command": (COMMAND, "command")}),
        ("shell", "Runs a shell command and returns its output", {"command": (
            {"type": "array", "items": {"type": "string"}, "description": "The command to execute"},
            lambda s: ["bash", "-lc", s["command"]])}),
        ("shell_command", "Runs a shell command and returns its output", {"command": (string("The shell script to execute"), "command")}),
        ("exec_command", "Runs a command in a PTY", {"cmd": (string("Shell command to execute"), "command")}),
        ("run_command", "Run a command", {"command": (string("Command line"), "command")})], shell_result),
    "read": Ability({"path": path}, ("Read the file {path}.", "Read {path}", "Use {tool} to read {path}.", "Read `{path}` with {tool}.", "Show me {path}"), [
        ("Read", "Reads a file from the local filesystem", {"file_path": (string("The absolute path to the file to read"), "path")}),
        ("read_file", "Read a file", {"path": (string("Path of the file"), "path")}),
        ("view", "View a file", {"file": (string("Which file"), "path")})], text_result),
    "list": Ability({"path": folder}, ("List the folder {path}.", "What is in the folder {path}?", "List {path} with {tool}."), [
        ("LS", "Lists files and directories in a given path", {"path": (string("The absolute path to the directory to list"), "path")}),
        ("list_dir", "List a directory", {"dir_path": (string("Directory"), "path")})], shell_result),
    "write": Ability({"path": path, "text": words}, ("Write `{text}` to the file {path}.", "Write `{text}` to {path} with {tool}."), [
        ("Write", "Writes a file to the local filesystem", {"file_path": (string("The absolute path to the file to write"), "path"),
                                                            "content": (string("The content to write to the file"), "text")}),
        ("write_file", "Write a file", {"path": (string("Path"), "path"), "text": (string("Content"), "text")})],
        lambda rng, s: f"wrote {s['path']}"),
    "find": Ability({"pattern": invented}, ("Search the files for `{pattern}`.", "Search for `{pattern}` with {tool}.", "Which files contain `{pattern}`?"), [
        ("Grep", "A search tool built on ripgrep", {"pattern": (string("The regular expression to search for"), "pattern")}),
        ("grep_files", "Finds files whose contents match", {"pattern": (string("Pattern"), "pattern")})], shell_result),
}
OPTIONAL = [    # parameters that a tool may have and a call leaves out
    ("timeout", {"type": "number", "description": "Optional timeout in milliseconds"}), ("description", string("Clear description in 5-10 words")),
    ("limit", {"type": "number", "description": "The number of lines"}), ("offset", {"type": "number"}), ("unit", {"type": "string", "enum": ["a", "b"]}),
    ("workdir", string("The working directory")), ("run_in_background", {"type": "boolean"}), ("language", string("Language code")),
    ("options", {"type": "object", "properties": {"deep": {"type": "boolean"}}}), ("tags", {"type": "array", "items": {"type": "string"}}),
]
OTHERS = ["Task", "Glob", "Edit", "TodoWrite", "update_plan", "apply_patch", "view_image", "NotebookEdit", "KillShell", "Skill", "AskUser"]


def schema(rng, name, description, properties, filler):
    if rng.random() < 0.4:
        description += ". " + sentence(rng, filler)
    required = list(properties)
    if rng.random() < 0.5:
        properties = {**properties, **dict(rng.sample(OPTIONAL, rng.choice((1, 1, 2, 3))))}
    parameters = {"type": "object", "properties": properties, "required": required}
    if rng.random() < 0.3:
        parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def other_tool(rng, filler):
    """A tool that no question needs."""
    name = rng.choice(OTHERS) if rng.random() < 0.5 else invented(rng) + "_" + rng.choice(NOUNS)
    properties = dict(rng.sample(OPTIONAL, rng.choice((0, 1, 2)))) | {invented(rng): string(sentence(rng, filler)) for _ in range(rng.choice((0, 1, 2)))}
    return schema(rng, name, sentence(rng, filler), properties, filler)


def wanted(rng, kind):
    """-> key, slots, question with {tool} still open"""
    ability = ABILITIES[kind]
    slots = {slot: draw(rng) for slot, draw in ability.draws.items()}
    form = rng.choice(ability.forms)
    return (kind, form, tuple(slots.values())), slots, form


def tool_conversation(rng, split, filler, size):
    """Tools offered in the system prompt; one to six questions, each with its call, and mostly a result and the answer."""
    mode = "thinking" if rng.random() < 0.5 else "chat"
    offered = rng.sample(list(ABILITIES), rng.choice((1, 2, 3, 4)[:2 + size]))
    agent = rng.random() < 0.4
    if agent and "run" not in offered:
        offered[0] = "run"
    variants = {kind: rng.choice(ABILITIES[kind].variants) for kind in offered}
    tools = [schema(rng, name, about, {p: s for p, (s, _) in parameters.items()}, filler) for name, about, parameters in variants.values()]
    tools += [other_tool(rng, filler) for _ in range(rng.choice((0, 0, 1, 2, 3)[:3 + size]))]
    rng.shuffle(tools)
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": system_text(rng, filler)})
    count = rng.choice((1, 2, 4, 6))
    for i in range(count):
        last = i == count - 1
        choice = rng.random()
        if choice < 0.08:                                       # something else in between
            messages += turn(*ask(rng, split, SHORT[rng.choice(("greet", "fact"))]), mode)
            continue
        missing = [kind for kind in ABILITIES if kind not in offered]
        if choice < 0.4:                                        # no tool fits
            slots, form = ask(rng, split, wanted, rng.choice(missing))
            if "{tool}" in form:
                continue
            messages += turn(form.format(**slots), NO_TOOL, NO_TOOL, mode)
            continue
        kind = rng.choice(offered)
        slots, form = ask(rng, split, wanted, kind)
        name, _, parameters = variants[kind]
        arguments = {p: slots[use] if isinstance(use, str) else use(slots) for p, (_, use) in parameters.items()}
        question = form.format(tool=name, **slots)
        if agent and rng.random() < 0.3:
            question = f"<system-reminder>\n{paragraph(rng, filler)}\n</system-reminder>\n{question}"
        call = {"role": "assistant", "content": "", "tool_calls": [{
            "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]}
        if mode == "thinking":
            call["reasoning_content"] = TOOL.format(name)
        elif rng.random() < 0.85:                               # else at once, as when a call is forced
            call["content"] = TOOL.format(name)
        messages += [{"role": "user", "content": question}, call]
        if last and rng.random() < 0.5:
            break
        result = ABILITIES[kind].result(rng, slots)
        first, *more = result.split("\n")
        if kind == "run" and rng.random() < 0.3:
            result = reported(rng, result)
        answer = {"role": "assistant", "content": f"The result begins: {first}" if more else f"The result: {first}"}
        if mode == "thinking":
            answer["reasoning_content"] = "The tool has answered."
        messages += [{"role": "tool", "tool_call_id": f"call_{i}", "content": result}, answer]
    if not messages or messages[-1]["role"] != "assistant":
        return tool_conversation(rng, split, filler, size)
    return Example("tool", messages, {"thinking_mode": mode, "tools": tools, **effort(rng, mode)})


# ---------------------------------------------------------------------------------------------------------------
# Long documents
# ---------------------------------------------------------------------------------------------------------------

def entry(rng, name):
    """-> key, line, question, answer"""
    noun, value = rng.choice(NOUNS), rng.choice(NOUNS + COLOURS + DAYS)
    kind = rng.choice(("word", "gift", "sign"))
    return (name, kind, value), f"The {kind} of {name} is {value}.", f"What is the {kind} of {name}?"


def recall_conversation(rng, split, filler, size):
    mode = "thinking" if rng.random() < 0.2 else "chat"
    count = rng.randint(4, (12, 40, 40)[size])
    names = rng.sample(NAMES, min(count, len(NAMES)))
    lines, questions = [], []
    for name in names:
        line, question = ask(rng, split, entry, name)
        lines.append(line)
        questions.append((question, line))
    rng.shuffle(lines)
    if size:
        lines = [line + (" " + sentence(rng, filler) if rng.random() < 0.3 * size else "") for line in lines]
    document = "\n".join(lines)
    head = rng.choice(("Read this document:\n", "Here are some lines:\n", "A list:\n"))
    asked = rng.sample(questions, min(len(questions), rng.choice(((1, 2, 4, 6), (2, 4, 8, 12))[size > 0])))
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": head + document})
    for i, (question, line) in enumerate(asked):
        if i == 0 and not messages:
            question = f"{head}{document}\n\n{question}"
        messages += turn(question, "I look for the line.", line, mode if i == len(asked) - 1 else "chat")
    return Example("recall", messages, {"thinking_mode": mode})


# ---------------------------------------------------------------------------------------------------------------
# Irrelevant text
# ---------------------------------------------------------------------------------------------------------------

RULES = ("Always {verb} the {noun} before you {verb2} it.", "Never {verb} a {noun}.", "Do not {verb} the {noun} unless the user asks for it.",
         "When in doubt, {verb} the {noun}.", "You should {verb} every {noun} with care.", "IMPORTANT: {verb} the {noun} first.",
         "If the {noun} is {colour}, {verb} it.", "Use the {noun} to {verb} the {noun2}.", "- {verb} the {noun}", "# {noun} and {noun2}")
VERBS = "read write check test open close move build clean print keep use save send name change".split()
SYSTEMS = ("You are a helpful assistant.", "You are nano.", "Be brief.", "You are a coding agent. Help the user with tasks.", "Answer politely.")


def sentence(rng, filler):
    if rng.random() < 0.3:
        return rng.choice(filler)
    return rng.choice(RULES).format(verb=rng.choice(VERBS), verb2=rng.choice(VERBS), noun=rng.choice(NOUNS), noun2=rng.choice(NOUNS), colour=rng.choice(COLOURS))


def paragraph(rng, filler, most=8):
    return rng.choice(("\n", " ")).join(sentence(rng, filler) for _ in range(rng.randint(1, most)))


def system_text(rng, filler):
    text = rng.choice(SYSTEMS)
    return text if rng.random() < 0.6 else f"{text}\n\n{paragraph(rng, filler)}"


def lengthened(rng, example, filler, most):
    """The same example behind a long system prompt."""
    text = "\n\n".join(paragraph(rng, filler, 12) for _ in range(rng.randint(1, most)))
    messages = list(example.messages)
    if messages[0]["role"] == "system":
        messages[0] = {"role": "system", "content": f"{text}\n\n{messages[0]['content']}"}
    else:
        messages.insert(0, {"role": "system", "content": text})
    return example._replace(messages=messages)


def filler_lines(text):
    """Lines of a text file, for prose between what matters."""
    return [line.strip() for line in text.splitlines() if len(line.strip()) > 20]


# ---------------------------------------------------------------------------------------------------------------

def example(rng, split, skill, filler, size=1):
    """One example. size 0: short; 1: hundreds of tokens; 2: up to thousands."""
    if skill == "tool":
        made = tool_conversation(rng, split, filler, min(size, 2))
    elif skill == "recall":
        made = recall_conversation(rng, split, filler, size)
    elif skill == "json":
        made = json_conversation(rng, split, filler)
    else:
        made = short_conversation(rng, split, skill, filler)
    return lengthened(rng, made, filler, 10) if size == 2 else made


def examples(split, seed, filler, skills=SKILLS, size=1):
    """Endless; skills in turn."""
    rng = random.Random(f"{split} {seed}")
    for skill in itertools.cycle(skills):
        yield example(rng, split, skill, filler, size)


def main():
    parser = argparse.ArgumentParser(description="Print generated conversations.")
    parser.add_argument("text", help="a text file, for prose between what matters")
    parser.add_argument("--split", choices=("train", "held-out"), default="train")
    parser.add_argument("--skill", choices=SKILLS)
    parser.add_argument("--size", type=int, choices=(0, 1, 2), default=1)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as f:
        filler = filler_lines(f.read())
    skills = (args.skill,) if args.skill else SKILLS
    for made in itertools.islice(examples(args.split, args.seed, filler, skills, args.size), args.count):
        print(f"-- {made.skill}\n{chat.encode(made.messages, **made.parameters)}\n")


if __name__ == "__main__":
    main()
