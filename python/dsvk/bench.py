"""How fast a model is on this device, and how near each op comes to what the device can do.

    dsvk bench                                        the small model that comes with the package
    dsvk bench MODEL --contexts 1024,8192             a model folder
    dsvk bench --synthetic flash:layers=4,experts=32  without weights (dsvk.synthetic)

    from dsvk import bench
    report = bench.run("nano")                        # a dict; print(report), or look at it in a notebook

Rates are the best of several runs, timed on the host with nothing else measured. Where the time goes comes from runs of their
own in which every dispatch is timed on the device. Dispatches are counted as the difference between such a run and one twice as
long, so that what happens once per call is not among them; submits are the longer run's average. Host time is what the calling
thread takes of a processor, in the runs with nothing else measured.
"""
from __future__ import annotations

import math
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from typing import Any, Callable

from . import _dsvk
from .chart import Bars, svg
from .device import Device, best_of, op_figures, op_table, sums_by
from .model import Model, plan
from .progress import Progress, Shown
from .session import Session, integer, list_of
from .synthetic import FAMILIES, Synthetic, write_config, write_weights
from .tables import html_table, size, text_table

__all__ = ["QUICK", "Report", "Workload", "run"]

KINDS = ("SWA", "CSA", "HCA")
LEAST_RUNS, MOST_RUNS = 3, 32
SLICE_SECONDS = 0.25       # of one timed call: long against a clock, short enough for Ctrl-C
MOST_TOKENS = 32           # of one timed call: the context is to stay what it is said to be
TAKEN_BACK = 6             # the same where a new prefill takes long: with one before it, as many as a session takes back without one
CHUNK = 64                 # rows of a step from which on matrix units are used (core/ops/ops.h); decoding has fewer
TRIES = 4                  # of profiles, until two of them counted the same way
MOST_BATCH = 32            # rows of a recorded step, which is what decoding replays
ROOM = 1 + MOST_TOKENS     # tokens a session decodes at most behind a context


@dataclass
class Workload:
    """What is run. seconds: how long each rate is measured; limit: seconds of filling sessions beyond which a case is left
    out, and listed as such."""
    contexts: tuple[int, ...] = (256, 1024)
    batches: tuple[int, ...] = (1, 8)
    seconds: float = 2.0
    limit: float = 60.0


#: What --quick runs.
QUICK = Workload(contexts=(64,), batches=(1, 4), seconds=0.2)


# ---- what a profile says, per token or step ----

def profiled(device: Device, work: Callable[[], object]) -> dict[str, Any]:
    with device.profile() as report:
        work()
    return dict(report)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and those of this thread on a processor."""
    start, began = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - start, time.thread_time() - began


def number(count: float) -> float:
    return int(count) if count == int(count) else count


def same_way(short: dict[str, Any], long: dict[str, Any], n: int) -> bool:
    """Whether n and 2 n steps ran alike: one or more of them in a submit, or each in one or more. A token that took too long for a
    submit sends the next ones another way."""
    submits, further = short["submits"], long["submits"] - short["submits"]
    dispatches: int = long["dispatches"] - short["dispatches"]
    return dispatches % n == 0 and (0 <= further <= n >= submits or min(submits, further) >= n)


def step_counts(short: dict[str, Any], long: dict[str, Any], n: int, layers: dict[str, int]) -> dict[str, Any]:
    """Of profiles of n and of 2 n steps."""
    fewer, more = sums_by("part", short["ops"]), sums_by("part", long["ops"])

    def extra(part: str) -> float:
        calls: int = more[part]["calls"] - fewer[part]["calls"]
        return calls / n
    return {"dispatches": number((long["dispatches"] - short["dispatches"]) / n), "submits": number(long["submits"] / (2 * n)),
            "device_us": long["device_us"] / (2 * n),
            "layer_dispatches": {kind: number(extra(kind) / count) for kind, count in layers.items()},
            "layer_us": {kind: more[kind]["us"] / (2 * n) / count for kind, count in layers.items()},
            "other_us": {part or "begin": sums["us"] / (2 * n) for part, sums in more.items() if part not in layers}}


# ---- running ----

@dataclass
class Bench:
    """One model, and sessions that grow from context to context, and are taken back to it before whatever is measured there."""
    model: Model
    device: Device
    work: Workload
    say: Callable[[str], None]
    sessions: list[_dsvk.Session] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def new_session(self) -> Session:
        largest = self.model.config["max_positions"]
        return self.model.session(context=largest, progress=lambda *_: None)   # called back, it serves Ctrl-C

    def extend(self, session: _dsvk.Session, context: int) -> float:
        """Prefills up to a context, with any ids that are not all the same; tokens/s."""
        before, vocab = session.position, self.model.vocab_size
        tokens = session.tokens + [(7919 * i + 13) % vocab for i in range(before, context)]
        start = time.perf_counter()
        session.sync(tokens)
        return (context - before) / (time.perf_counter() - start)

    def decode(self, sessions: list[_dsvk.Session], n: int) -> None:
        """Appends the most likely n tokens to each."""
        _dsvk.decode_batch(sessions, n, [{} for _ in sessions])

    def decode_at(self, context: int, sessions: list[_dsvk.Session], n: int,
                  measure: Callable[[Callable[[], object]], Any]) -> Any:
        """measure(work), where work decodes n tokens of each session. They were taken back to the context and decoded one token, after
        which the library knows how long a token of so many sessions takes."""
        for session in sessions:
            session.sync(session.tokens[:context])
        self.decode(sessions, 1)
        return measure(lambda: self.decode(sessions, n))

    def position(self, i: int) -> int:
        return self.sessions[i].position if i < len(self.sessions) else 0

    def fits(self, context: int, batch: int, rate: float) -> bool:
        """Whether `batch` sessions are filled up to a context within the limit; else it is listed as skipped."""
        seconds = sum(max(0, context - self.position(i)) for i in range(batch)) / rate
        if seconds > self.work.limit:
            reason = f"filling the sessions would take about {seconds:.0f} s (--limit {self.work.limit:g})"
            self.skipped.append({"context": context, "batch": batch, "reason": reason})
        return seconds <= self.work.limit

    def warm_up(self, context: int) -> tuple[float, list[dict[str, Any]]]:
        """Prefills three times: to compile, to time, and with every dispatch timed. Tokens/s, and the ops of the last time."""
        rates, report = [], {}
        for i, what in enumerate(("to warm up", "timed", "every dispatch timed")):
            self.say(f"prefill of {context} tokens, {what}")
            with self.new_session() as session:
                if i < 2:
                    rates.append(self.extend(session, context))
                else:
                    report = profiled(self.device, lambda: self.extend(session, context))
        return rates[1], op_figures(report["ops"])

    def prefill(self, context: int, batch: int) -> list[float]:
        """Brings `batch` sessions to a context; tokens/s of each that was not there yet."""
        rates = []
        for i in range(batch):
            if i == len(self.sessions):
                self.sessions.append(self.new_session())
            if self.position(i) < context:
                self.say(f"prefill to {context} tokens, session {i + 1} of {batch}")
                rates.append(self.extend(self.sessions[i], context))
        return rates

    def decode_case(self, context: int, batch: int, rate: float, layers: dict[str, int]) -> dict[str, Any]:
        """One step is one token of each session of the batch. rate: tokens/s of prefill."""
        sessions, device = self.sessions[:batch], self.device
        self.say(f"decode at {context} tokens, batch {batch}")

        def at(n: int, measure: Callable[[Callable[[], object]], Any]) -> Any:
            return self.decode_at(context, sessions, n, measure)
        once = min(at(1, timed)[0] for _ in range(2))   # the first one may compile
        most = MOST_TOKENS if context * batch / rate < SLICE_SECONDS else TAKEN_BACK
        n = max(1, min(most, int(SLICE_SECONDS / once)))
        counted = max(1, n // 2)
        for _ in range(TRIES):
            short, long = (at(steps, lambda work: profiled(device, work)) for steps in (counted, 2 * counted))
            if same_way(short, long, counted):
                break
        seconds: list[float] = []
        host_seconds: list[float] = []
        while len(seconds) < LEAST_RUNS or (len(seconds) < MOST_RUNS and sum(seconds) < self.work.seconds):
            for times, took in zip((seconds, host_seconds), at(n, timed)):
                times.append(took)
        best = min(seconds) / n
        return {"context": context, "batch": batch, "positions": [context + 1, sessions[0].position], "tokens_per_s": batch / best,
                "step_us": 1e6 * best, "host_us": 1e6 * min(host_seconds) / n, **step_counts(short, long, counted, layers),
                "ops": op_figures(long["ops"], 2 * counted)}

    def run(self, layers: dict[str, int]) -> dict[str, Any]:
        contexts, batches = sorted(set(self.work.contexts)), sorted(set(self.work.batches))
        rate, prefill_ops = self.warm_up(contexts[0])
        prefill, decode = [], []
        for context in contexts:
            fitting = [batch for batch in batches   # the least there is to say is always measured
                       if (context, batch) == (contexts[0], batches[0]) or self.fits(context, batch, rate)]
            if not fitting:
                continue
            rates = self.prefill(context, fitting[-1]) + [rate] * (context == contexts[0])
            if rates:
                rate = max(rates)
                prefill.append({"context": context, "tokens_per_s": rate})
            decode += [self.decode_case(context, batch, rate, layers) for batch in fitting]
        return {"prefill": prefill, "prefill_ops": prefill_ops, "decode": decode, "skipped": self.skipped}

    def close(self) -> None:
        for session in self.sessions:
            session.close()


# ---- from some layers to the whole model ----

def layer_counts(planned: dict[str, Any]) -> dict[str, int]:
    kinds = [layer["kind"] for layer in planned["layers"]]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def extrapolate(synthetic: Synthetic, decode: list[dict[str, Any]], measured: dict[str, int]) -> list[dict[str, Any]]:
    """The whole model's decode of one sequence, from so many measured layers of each kind. Batches are left out: they would find
    their experts among fewer than there are. Empty where a kind of layer was not measured, or with fewer experts than a token
    takes."""
    if synthetic.config["num_experts_per_tok"] < synthetic.family_config["num_experts_per_tok"]:
        return []
    whole = plan(FAMILIES[synthetic.family])
    counts = layer_counts(whole)
    vocabulary = synthetic.family_config["vocab_size"] / synthetic.config["vocab_size"]
    rows = []
    for case in decode:
        if case["batch"] != 1 or not counts.keys() <= case["layer_us"].keys():
            continue
        others = sum(us * (vocabulary if part == "head" else 1) for part, us in case["other_us"].items())
        device_us = sum(case["layer_us"][kind] * n for kind, n in counts.items()) + others
        step_us = device_us * case["step_us"] / case["device_us"]
        more = {kind: n - measured[kind] for kind, n in counts.items()}
        dispatches = number(case["dispatches"] + sum(case["layer_dispatches"][kind] * n for kind, n in more.items()))
        rows.append({"context": case["context"], "tokens_per_s": 1e6 / step_us, "step_us": step_us,
                     "dispatches_per_token": dispatches})
    return [{"family": synthetic.family, "layers": counts, "weight_bytes": whole["purposes"]["weights"],
             "bytes_per_token": whole["bytes_per_token"], "decode": rows,
             "how": "an extrapolation, not a measurement: device time of one measured layer of each kind times the whole "
                    f"model's number of them, plus the head's times {vocabulary:g} for the true vocabulary, plus the rest; times "
                    "wall by device time of the measured step. One sequence: a layer reads as many experts as in the whole model. "
                    "Dispatches are counted likewise"
             }] if rows else []


# ---- the report ----

class Report(dict[str, Any]):
    """What run() measured. dispatches_per_layer (of a step), dispatches_per_token, submits_per_token, host_us_per_token,
    decode_tokens_per_s and ops (one decoded step) are of the first context and the smallest batch, whose steps are so many tokens;
    prefill_tokens_per_s is of the last context.
    decode and prefill have every case, prefill_ops is the whole prefill to the first context, skipped what was left out and
    why, extrapolation the whole model where layers of it were measured; device has the measured peaks, the better of those before
    and after everything else."""

    def case_table(self) -> list[dict[str, Any]]:
        """A row for each context and batch."""
        prefill = {case["context"]: round(case["tokens_per_s"], 1) for case in self["prefill"]}
        return [{"context": case["context"], "batch": case["batch"], "decode tokens/s": round(case["tokens_per_s"], 2),
                 "step ms": round(case["step_us"] / 1e3, 3), "device ms": round(case["device_us"] / 1e3, 3),
                 "dispatches": round(case["dispatches"], 2), "submits": round(case["submits"], 2),
                 "host us": round(case["host_us"], 1), "prefill tokens/s": prefill.get(case["context"])}
                for case in self["decode"]]

    def layer_table(self) -> list[dict[str, Any]]:
        """A row for each kind of layer: what one of them takes of a decoded step."""
        case = self["decode"][0]
        return [{"layer": kind, "count": count, "dispatches": round(case["layer_dispatches"][kind], 2),
                 "us": round(case["layer_us"][kind], 1)} for kind, count in self["model"]["layers"].items()]

    def tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """All of them, each with its caption."""
        case = self["decode"][0]
        step = f"a decoded step at {case['context']} tokens, batch {case['batch']}"
        return [("One step is a token of every sequence of the batch:", self.case_table()),
                (f"Layers of {step}:", self.layer_table()), (f"Ops of {step}:", op_table(self["ops"])),
                (f"Ops of a prefill to {self['prefill'][0]['context']} tokens:", op_table(self["prefill_ops"]))]

    def summary(self) -> list[str]:
        """Lines about the device, what it can do, and the model."""
        device, model = self["device"], self["model"]
        copy, flops = device["copy_bytes_per_s"] / 1e9, device["f32_flops_per_s"] / 1e9
        matrix = device["matrix_kernel"]
        matrix = f", {matrix} {device['matrix_flops_per_s'] / 1e9:.1f} GFLOP/s" if matrix else ""
        return [f"device    {device['name']}, {device['driver']}",
                f"measured  copy {copy:.2f} GB/s, float32 {flops:.1f} GFLOP/s{matrix}",
                f"prefill   multiplies by {device['matmul']}",
                f"model     {model['name']}: {size(model['weight_bytes'])} of weights, "
                f"a token reads {size(model['bytes_per_token'])}"]

    def remarks(self) -> list[str]:
        """Lines about what was left out, and what the whole model would do."""
        lines = [f"left out: {case['context']} tokens, batch {case['batch']}: {case['reason']}" for case in self["skipped"]]
        for whole in self["extrapolation"]:
            cases = [f"at {row['context']} tokens {row['tokens_per_s']:.2f} tokens/s, {round(row['dispatches_per_token'], 2):g} "
                     "dispatches per token" for row in whole["decode"]]
            lines.append(f"all of {whole['family']}, {size(whole['weight_bytes'])} of weights: {'; '.join(cases)}: {whole['how']}")
        return lines

    def __str__(self) -> str:
        tables = [f"\n{caption}\n{text_table(rows)}" for caption, rows in self.tables()]
        return "\n".join([*self.summary(), *tables, *[f"\n{line}" for line in self.remarks()]])

    def _repr_html_(self) -> str:
        return "".join(html_table(rows, caption) for caption, rows in self.tables()) + self.svg()

    def svg(self) -> str:
        """The same as a picture: rates, and per op the share of a step's time and of the measured bandwidth."""
        decode = [(f"{case['context']} tokens, batch {case['batch']}", case["tokens_per_s"]) for case in self["decode"]]
        prefill = [(f"to {case['context']} tokens", case["tokens_per_s"]) for case in self["prefill"]]
        total = sum(op["us"] for op in self["ops"]) or 1
        shown = [op for op in self["ops"] if op["us"] >= 0.002 * total]
        shares = [(op["name"], 100 * op["us"] / total) for op in shown]
        bandwidth = [(op["name"], 100 * (op["bandwidth_fraction"] or 0.0)) for op in shown]
        made = textwrap.wrap(f"dsvk {self['version']}: {self['command'] or 'bench.run'}", 110)
        return svg([*self.summary(), *made], [Bars("decode, tokens/s", decode), Bars("prefill, tokens/s", prefill),
                                              Bars("% of a decoded step's time", shares),
                                              Bars("% of the measured copy bandwidth", bandwidth, full=100)])


def report_of(model: Model, name: str, found: dict[str, Any], peaks: dict[str, Any], planned: dict[str, Any],
              synthetic: Synthetic | None, command: str | None) -> Report:
    info, case = model.device.info, found["decode"][0]
    described = {key: info[key] for key in ("name", "type", "driver", "api", "subgroup", "matmul")}
    return Report(
        version=_dsvk.__version__, command=command, device={**described, **peaks},
        model={"name": name, "synthetic": synthetic is not None, "layers": layer_counts(planned),
               "experts": model.config["n_experts"], "vocabulary": model.vocab_size,
               "weight_bytes": model.report["device_bytes"], "bytes_per_token": planned["bytes_per_token"]},
        dispatches_per_layer={kind.lower(): case["layer_dispatches"].get(kind) for kind in KINDS},
        **{f"{what}_per_token": number(case[what] / case["batch"]) for what in ("dispatches", "submits", "host_us")},
        decode_tokens_per_s=case["tokens_per_s"], prefill_tokens_per_s=found["prefill"][-1]["tokens_per_s"], ops=case["ops"],
        **found, extrapolation=extrapolate(synthetic, found["decode"], layer_counts(planned)) if synthetic else [])


def open_model(model: str, synthetic: Synthetic | None, device: Device, progress: Progress) -> tuple[Model, dict[str, Any]]:
    """The model and its plan. A synthetic one lies in a folder for as long as it is being loaded."""
    if synthetic is None:
        opened = Model(model, device=device, progress=progress)
        return opened, plan(opened.report["path"])
    with tempfile.TemporaryDirectory(prefix="dsvk-synthetic-") as folder:
        write_config(synthetic, folder)
        planned = plan(folder, device=device)
        need, have = planned["purposes"]["weights"], planned["available"]
        if need > have:   # known before anything is written
            raise _dsvk.DeviceMemoryError(f"{synthetic.text} has {size(need)} of weights, {size(have)} of device memory are free: "
                                          "ask for fewer layers or experts")
        with Shown(progress) as callback:
            write_weights(synthetic, folder, callback)
        return Model(folder, device=device, progress=progress), planned


def check_numbers(name: str, value: object, most: int) -> None:
    numbers = [integer(number) for number in list_of(name, value, "numbers")]
    if not all(number is not None for number in numbers):
        raise TypeError(f"{name}: expected integers, got {value!r}")
    if not numbers or not all(1 <= number <= most for number in numbers if number is not None):
        raise _dsvk.InvalidError(f"{name}: expected numbers from 1 to {most}, got {value!r}")


def check(model: str | None, synthetic: Synthetic | None, work: Workload) -> None:
    """Before anything is measured: a folder that is no model, and what cannot be run."""
    if model is not None and synthetic is not None:
        raise _dsvk.InvalidError("model and synthetic both say what is measured: give one of them")
    positions = plan(FAMILIES[synthetic.family] if synthetic else model or "nano")["context_tokens"]
    check_numbers("contexts", work.contexts, positions - ROOM)
    check_numbers("batches", work.batches, MOST_BATCH)
    for name in ("seconds", "limit"):
        value = getattr(work, name)
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number, got {value!r}")
        if math.isnan(value) or value < 0:
            raise _dsvk.InvalidError(f"{name}: expected a number of at least 0, got {value!r}")


def way_of(device: Device, rows: int) -> str | None:
    """How steps of so many rows are multiplied, as op_figures takes it."""
    return device.info["matmul"] if rows >= CHUNK else None


def run(model: str | None = None, device: Device | str | int | None = None, synthetic: str | Synthetic | None = None,
        work: Workload = Workload(), progress: Progress = None, say: Callable[[str], None] = lambda text: None,
        command: str | None = None) -> Report:
    """Measures a model folder, "nano", which is the default, or a synthetic model ("flash:layers=4,experts=32"). say is told what is
    being done; command is what the report says it was made with."""
    if isinstance(synthetic, str):
        synthetic = Synthetic(synthetic)
    check(model, synthetic, work)
    if not isinstance(device, Device):
        device = Device(device)
    say("measuring the device")
    peaks = device.measure()
    opened, planned = open_model(model or "nano", synthetic, device, progress)
    with opened:
        bench = Bench(opened, device, work, say)
        try:
            found = bench.run(layer_counts(planned))
        finally:
            bench.close()
        say("measuring the device once more")
        peaks = device.peaks = best_of(peaks, device.measure())
        found["prefill_ops"] = op_figures(found["prefill_ops"], peaks=peaks, way=way_of(device, min(work.contexts)))
        for case in found["decode"]:
            case["ops"] = op_figures(case["ops"], peaks=peaks)
        return report_of(opened, synthetic.text if synthetic else str(model or "nano"), found, peaks, planned, synthetic,
                         command)


if __name__ == "__main__":
    from .cli import main
    sys.exit(main(["bench", *sys.argv[1:]]))
