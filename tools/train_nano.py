"""Trains "nano", a small real model of the DeepSeek-V4 architecture, on any text file and exports it in the native layout.

    python train_nano.py TEXT.txt --out DIRECTORY [--minutes 45 | --steps 2000] [--resume]

What happens, in order: the last tenth of the file is held out; a byte-level BPE vocabulary is trained on the rest; the
model (transformers' implementation with an MTP block on top, see nano_model.py) is trained on windows of it; from
--quantise-from on, every forward pass sees the weights and cache rows as the FP8/FP4 checkpoint will hold them; the
result is exported, loaded back, and measured on the held-out part. DIRECTORY then holds config.json,
generation_config.json, tokenizer.json, tokenizer_config.json, model.safetensors and README.md, the model card.

Windows are of three kinds: running text from anywhere; text from the start of a paragraph behind the begin-of-sentence
token; and paragraphs in turn as user and assistant of a chat, so that the chat format means something to the model.

Ctrl-C (or SIGTERM) saves the training state; --resume goes on from it. Needs torch, transformers (with models/deepseek_v4),
tokenizers, safetensors and numpy. Runs on a CPU.
"""
import argparse
import collections
import ctypes
import json
import math
import os
import re
import signal
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nano_checkpoint import export_checkpoint, load_checkpoint
from nano_model import Nano, initialise

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK_END = "<｜User｜>", "<｜Assistant｜>", "</think>"
FAMILY_TOKENS = [       # behind the byte-pair vocabulary, in the order of the large models
    "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", USER, ASSISTANT, "<|EOT|>", "<think>", THINK_END, "｜DSML｜",
    "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>",
    "<｜extracted_url｜>", "<｜read_url｜>",
]
SPLITS = [              # the family's three pre-tokeniser patterns, applied one after the other
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
]


def model_config(args):
    """config.json: the family's keys and constants around small dimensions."""
    ratios = [int(r) for r in args.ratios.split(",")]
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
        "vocab_size": args.vocab, "hidden_size": args.hidden, "num_hidden_layers": len(ratios),
        "num_hash_layers": args.hash_layers, "num_nextn_predict_layers": 1, "compress_ratios": ratios + [0],
        "num_attention_heads": args.heads, "num_key_value_heads": 1, "head_dim": 128, "qk_rope_head_dim": 64,
        "q_lora_rank": 128, "o_groups": 2, "o_lora_rank": 64, "sliding_window": 128,
        "index_n_heads": 4, "index_head_dim": 128, "index_topk": 32,
        "n_routed_experts": args.experts, "num_experts_per_tok": args.active, "n_shared_experts": 1,
        "moe_intermediate_size": 128, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
        "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "hidden_act": "silu",
        "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "compress_rope_theta": 160000, "max_position_embeddings": 4096,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                         "beta_fast": 32, "beta_slow": 1},
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "use_cache": True, "torch_dtype": "bfloat16", "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "scale_fmt": "ue8m0",
                                "weight_block_size": [128, 128]},
    }


# ---------------------------------------------------------------------------------------------------------------
# Text and tokens
# ---------------------------------------------------------------------------------------------------------------

def split_text(path, held_out):
    """-> training and held-out text; the cut is at a whole character."""
    with open(path, "rb") as f:
        data = f.read()
    cut = int(len(data) * (1 - held_out))
    while cut < len(data) and data[cut] & 0xC0 == 0x80:
        cut += 1
    return data[:cut].decode("utf-8"), data[cut:].decode("utf-8")


def train_tokenizer(text, vocab_size):
    """Byte-level BPE with the family's pre-tokeniser and special tokens: 0, 1, 2, then bytes and merges, then the rest."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=vocab_size - len(FAMILY_TOKENS), special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=t == "<|EOT|>") for t in FAMILY_TOKENS])
    assert tokenizer.get_vocab_size() == vocab_size, "the text is too short for this vocabulary"
    return tokenizer


def write_tokenizer(tokenizer, config, directory):
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    def added(content):
        return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False,
                "single_word": False}
    write_json(os.path.join(directory, "tokenizer_config.json"), {
        "add_bos_token": False, "add_eos_token": False,
        "bos_token": added(BOS), "eos_token": added(EOS), "pad_token": added(EOS),
        "clean_up_tokenization_spaces": False, "legacy": True, "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None})
    write_json(os.path.join(directory, "generation_config.json"), {
        "_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1,
        "do_sample": True, "temperature": 1.0, "top_p": 1.0})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Windows:
    """Random training windows; everything is tokenised once."""

    def __init__(self, text, tokenizer, chat_share, rng):
        encoding = tokenizer.encode(text)
        self.ids, starts = np.array(encoding.ids), np.array([begin for begin, _ in encoding.offsets])
        spans = [m.span() for m in re.finditer(r"(?:.+\n?)+", text)]                # paragraphs: no empty line inside
        where = np.searchsorted(starts, [begin for begin, _ in spans])
        self.paragraph_at = where[starts[np.minimum(where, len(starts) - 1)] == [begin for begin, _ in spans]]
        self.paragraphs = [tokenizer.encode(text[a:b].strip()).ids for a, b in spans]
        self.special = {t: tokenizer.token_to_id(t) for t in (BOS, EOS, USER, ASSISTANT, THINK_END)}
        self.chat_share, self.rng = chat_share, rng

    def batch(self, count, length):
        return torch.from_numpy(np.stack([self.window(length) for _ in range(count)]))

    def window(self, length):
        if self.rng.random() < self.chat_share and len(self.paragraphs) > 1:
            return self.chat(length)
        if self.rng.random() < 0.5:
            at = self.rng.choice(self.paragraph_at)
            piece = self.ids[at:at + length - 1]
            if len(piece) == length - 1:
                return np.concatenate([[self.special[BOS]], piece])
        at = self.rng.integers(len(self.ids) - length)
        return self.ids[at:at + length]

    def chat(self, length):
        s, at = self.special, self.rng.integers(len(self.paragraphs) - 1)
        row = [s[BOS]]
        while len(row) < length:
            user, reply = self.paragraphs[at % len(self.paragraphs)], self.paragraphs[(at + 1) % len(self.paragraphs)]
            row += [s[USER]] + user + [s[ASSISTANT], s[THINK_END]] + reply + [s[EOS]]
            at += 2
        return np.array(row[:length])


# ---------------------------------------------------------------------------------------------------------------
# The yardstick: an order-3 byte model
# ---------------------------------------------------------------------------------------------------------------

def order3_bits_per_byte(train, held_out):
    """Interpolated Kneser-Ney over bytes with three bytes of context.

    Absolute discounts, one per order, are chosen by a grid search that trains on the first 90 % of the training text and
    measures on the rest of it; then everything is counted again on the whole training text.
    """
    train, held_out = train.encode(), held_out.encode()
    cut = len(train) * 9 // 10
    counts, best = KneserNey(train[:cut]), [0.5, 0.5, 0.5, 0.5]
    for order in (3, 2, 1, 3, 2):
        grid = [best[:order] + [d] + best[order + 1:] for d in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
        best = min(grid, key=lambda d: counts.bits(train[cut:], d))
    return KneserNey(train).bits(held_out, best) / len(held_out), best


class KneserNey:
    """Counts by context length k = 0..3. Below the top, a byte counts once per different byte seen before it."""

    def __init__(self, data):
        seen = [collections.Counter(data[i - k:i + 1] for i in range(k, len(data))) for k in (0, 1, 2, 3)]
        tables = [collections.Counter(gram[1:] for gram in seen[k + 1]) for k in (0, 1, 2)] + [seen[3]]
        self.tables, self.totals, self.kinds = tables, [], []
        for table in tables:
            total, kinds = collections.Counter(), collections.Counter()
            for gram, n in table.items():
                total[gram[:-1]] += n
                kinds[gram[:-1]] += 1
            self.totals.append(total)
            self.kinds.append(kinds)

    def bits(self, data, discounts):
        """Total code length; bytes never seen keep a uniform share through the discount of order 0."""
        total, known = 0.0, {}
        for i in range(len(data)):
            gram = data[max(0, i - 3):i + 1]
            if gram not in known:
                p = 1 / 256
                for k in range(len(gram)):
                    part = gram[len(gram) - 1 - k:]
                    n = self.totals[k][part[:-1]]
                    if n:
                        d = discounts[k]
                        p = (max(self.tables[k][part] - d, 0) + d * self.kinds[k][part[:-1]] * p) / n
                known[gram] = -math.log2(p)
            total += known[gram]
        return total


# ---------------------------------------------------------------------------------------------------------------
# Optimiser
# ---------------------------------------------------------------------------------------------------------------

class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made nearly orthogonal by a Newton-Schulz iteration; the large models use it too.

    Stacked expert matrices are treated one by one. The factor 0.2 sqrt(larger side) gives updates the size of Adam's, so
    both optimisers share one learning rate.
    """
    def __init__(self, groups, momentum=0.95, weight_decay=0.1):
        super().__init__(groups, dict(lr=0.0, momentum=momentum, weight_decay=weight_decay, rows=0))

    @torch.no_grad()
    def step(self):
        by_shape = {}
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                matrices = update.view(-1, group["rows"] or p.shape[-2], p.shape[-1])
                by_shape.setdefault(matrices.shape[1:], []).append((p, matrices, group))
        for shape, entries in by_shape.items():
            update = orthogonal(torch.cat([m for _, m, _ in entries])) * (0.2 * math.sqrt(max(shape)))
            for (p, _, group), u in zip(entries, update.split([len(m) for _, m, _ in entries])):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u.reshape(p.shape), alpha=group["lr"])


def orthogonal(m):
    """[n, r, c] -> singular values near 1. Five steps of the usual quintic iteration."""
    x = m.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


def make_optimisers(model, weight_decay):
    """Muon for the projections, AdamW for embedding, head, router, hyper-connections, norms, sinks and biases."""
    inner = model.config["moe_intermediate_size"]
    matrices, stacked, mixing, rest = [], [], [], []
    for name, p in model.named_parameters():
        if name.endswith("gate_up_proj"):
            stacked.append(p)
        elif p.ndim >= 2 and name.endswith(("proj.weight", "down_proj")) and "weights_proj" not in name:
            matrices.append(p)
        elif name.endswith(("_hc.fn", "hc_head.hc_fn")):
            mixing.append(p)            # hundreds of inputs of size one: small steps
        else:
            rest.append(p)
    decayed, plain = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
    return [Muon([dict(params=matrices), dict(params=stacked, rows=inner)], weight_decay=weight_decay),
            torch.optim.AdamW([dict(params=decayed, weight_decay=weight_decay), dict(params=plain, weight_decay=0.0),
                               dict(params=mixing, weight_decay=weight_decay, rate=0.2)],
                              betas=(0.9, 0.98), eps=1e-10, fused=True)]


# ---------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------

@torch.no_grad()
def measure(model, ids, n_bytes, window=512, fresh=256, batch=4):
    """Held-out figures: windows of 512 tokens that advance by 256, so a token is predicted from 256 to 511 before it.

    The text is preceded by the begin-of-sentence token. -> bits per byte; cross-entropy in nats per token of the main
    head and of the MTP head; how often the MTP head's best token is the main head's best token one step later.
    """
    was_training = model.training
    model.eval()
    ids = torch.cat([torch.tensor([model.config["bos_token_id"]]), ids])
    starts = list(range(0, max(1, len(ids) - 1 - (window - fresh)), fresh))
    rows = [ids[s:s + window + 1] for s in starts]
    nats = ahead_nats = agree = 0.0
    scored = ahead_scored = 0
    for same in group_by_length(rows, batch):
        first = torch.tensor([0 if i == 0 else window - fresh for i, _ in same])
        x = torch.stack([row for _, row in same])
        logits, ahead = model(x[:, :-1])
        new = torch.arange(x.shape[1] - 1) >= first[:, None]
        loss = F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none")
        nats, scored = nats + loss[new].double().sum().item(), scored + int(new.sum())
        if ahead is not None:
            new = new[:, 1:]
            loss = F.cross_entropy(ahead.transpose(1, 2), x[:, 2:], reduction="none")
            ahead_nats, ahead_scored = ahead_nats + loss[new].double().sum().item(), ahead_scored + int(new.sum())
            agree += (ahead.argmax(-1) == logits[:, 1:].argmax(-1))[new].sum().item()
    model.train(was_training)
    per = max(ahead_scored, 1)
    return dict(bits_per_byte=nats / math.log(2) / n_bytes, nats=nats / scored,
                mtp_nats=ahead_nats / per, mtp_agreement=agree / per)


def group_by_length(rows, batch):
    """Batches of (index, row) with rows of one length."""
    lengths = collections.defaultdict(list)
    for i, row in enumerate(rows):
        lengths[len(row)].append((i, row))
    return [same[i:i + batch] for same in lengths.values() for i in range(0, len(same), batch)]


@torch.no_grad()
def generate(model, tokenizer, prompt, count, temperature, seed=1, top_p=0.95):
    """The continuation of a prompt. Plain sampling without a cache; good enough for a model card."""
    model.eval()
    generator, ids = torch.Generator().manual_seed(seed), tokenizer.encode(prompt).ids
    first = len(ids)
    for _ in range(count):
        probability = torch.softmax(model(torch.tensor([ids]))[0][0, -1] / temperature, -1)
        ordered, index = probability.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered > top_p] = 0
        token = index[torch.multinomial(ordered, 1, generator=generator)].item()
        if token == model.config["eos_token_id"]:
            break
        ids.append(token)
    return tokenizer.decode(ids[first:], skip_special_tokens=False)


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------

def learning_rate(peak, done):
    """Warm-up over the first 2 %, then a cosine down to 2 % of the peak."""
    return peak * min(1, done / 0.02 + 0.01) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Training:
    """Model, optimisers, data and how far they have come; one object to save and to resume."""

    def __init__(self, args, config, tokenizer, train_text, held_text):
        self.args, self.config, self.tokenizer = args, config, tokenizer
        self.rng = np.random.default_rng(args.seed)
        self.windows = Windows(train_text, tokenizer, args.chat, self.rng)
        self.bytes_per_token = len(train_text.encode()) / len(self.windows.ids)
        self.held_ids = torch.tensor(tokenizer.encode(held_text).ids)
        self.held_bytes = len(held_text.encode())
        torch.manual_seed(args.seed)
        self.model = Nano(config, args.dropout, half=not args.float32)
        frequency = torch.bincount(torch.from_numpy(self.windows.ids), minlength=config["vocab_size"])
        initialise(self.model, frequency, torch.Generator().manual_seed(args.seed))
        self.optimisers = make_optimisers(self.model, args.weight_decay)
        self.step, self.seconds, self.tokens = 0, 0.0, 0

    def done(self):
        return self.step / self.args.steps if self.args.steps else self.seconds / (60 * self.args.minutes)

    def save(self):
        torch.save(dict(model=self.model.state_dict(), optimisers=[o.state_dict() for o in self.optimisers],
                        step=self.step, seconds=self.seconds, tokens=self.tokens, torch_rng=torch.get_rng_state(),
                        rng=self.rng.bit_generator.state, tokenizer=self.tokenizer.to_str()), self.args.state + ".part")
        os.replace(self.args.state + ".part", self.args.state)

    def load(self):
        saved = torch.load(self.args.state, weights_only=False)
        if saved["tokenizer"] != self.tokenizer.to_str():
            sys.exit(f"{self.args.state} was made from another text or vocabulary")
        self.model.load_state_dict(saved["model"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        self.step, self.seconds, self.tokens = saved["step"], saved["seconds"], saved["tokens"]
        torch.set_rng_state(saved["torch_rng"])
        self.rng.bit_generator.state = saved["rng"]

    def one_step(self):
        """-> main and MTP loss in nats per token, indexer divergence."""
        args, done = self.args, self.done()
        late = done >= args.quantise_from
        length = args.window * (2 if late else 1)
        rate = learning_rate(args.lr, done)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
        self.model.train()
        self.model.select_all(not late)
        x = self.windows.batch(max(1, args.batch_tokens // length), length + 1)
        with self.model.as_exported(late):
            logits, ahead = self.model(x[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
            mtp = F.cross_entropy(ahead.flatten(0, 1), x[:, 2:].flatten())
            index = torch.stack(self.model.index_losses).mean() if self.model.index_losses else torch.zeros(())
            (loss + args.mtp_weight * mtp + args.index_weight * index).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.model.balance_experts(args.balance * (1 - done))
        self.step, self.tokens = self.step + 1, self.tokens + x[:, 1:].numel()
        return loss.item(), mtp.item(), index.item()

    def run(self):
        args, recent, began = self.args, [], time.time() - self.seconds
        next_line, next_save = self.seconds + 15, self.seconds + args.save_every
        while self.done() < 1:
            recent.append(self.one_step())
            self.seconds = time.time() - began
            if self.seconds >= next_line:
                main, mtp, index = np.mean(recent, 0)
                left = self.seconds / max(self.done(), 1e-9) - self.seconds
                print(f"step {self.step:5d}  {self.seconds / 60:5.1f} min  loss {main:.3f}  bits/byte {self.bits(main):.3f}"
                      f"  mtp {mtp:.3f}  index {index:.3f}  {self.tokens / self.seconds:.0f} tok/s"
                      f"  ETA {left / 60:.1f} min", flush=True)
                recent, next_line = [], self.seconds + args.log_every
            if self.seconds >= next_save:
                self.save()
                with self.model.as_exported(self.done() >= args.quantise_from):
                    figures = measure(self.model, self.held_ids[:8192], self.held_bytes * 8192 / len(self.held_ids))
                print(f"step {self.step:5d}  held-out bits/byte about {figures['bits_per_byte']:.3f}"
                      f"  mtp {figures['mtp_nats']:.3f}, agreement {figures['mtp_agreement']:.2f}", flush=True)
                next_save = self.seconds + args.save_every

    def bits(self, nats):
        return nats / math.log(2) / self.bytes_per_token


# ---------------------------------------------------------------------------------------------------------------
# Result
# ---------------------------------------------------------------------------------------------------------------

def finish(training, train_text, held_text):
    """Export, load back, measure, write the card."""
    args, config = training.args, training.config
    model, tokenizer = training.model, training.tokenizer
    model.select_all(False)
    full = measure(model, training.held_ids, training.held_bytes)
    export_checkpoint(model.named_weights(), config, args.out)
    write_tokenizer(tokenizer, config, args.out)
    loaded = Nano(config)
    loaded.load_weights(load_checkpoint(args.out)[1])
    loaded.cache_quant = True
    exported = measure(loaded, training.held_ids, training.held_bytes)
    order3, discounts = order3_bits_per_byte(train_text, held_text)
    paragraph = next((p for p in held_text.split("\n\n")[1:] if p.strip()), held_text[:200]).strip()
    line = paragraph.splitlines()[0] + "\n"
    samples = [line + generate(loaded, tokenizer, BOS + line, 200, 0.8),
               generate(loaded, tokenizer, f"{BOS}{USER}{paragraph[:400]}{ASSISTANT}{THINK_END}", 120, 0.8)]
    samples[1] = "".join(f"> {l}\n" for l in paragraph[:400].splitlines()) + samples[1]
    card = model_card(training, full, exported, order3, train_text, held_text, samples)
    with open(os.path.join(args.out, "README.md"), "w", encoding="utf-8") as f:
        f.write(card)
    print(card)


def model_card(training, full, exported, order3, train_text, held_text, samples):
    args, c = training.args, training.config
    size = sum(os.path.getsize(os.path.join(args.out, f)) for f in os.listdir(args.out) if f != "README.md")
    kinds = {0: "SWA", 4: "CSA", 128: "HCA"}
    layers = ", ".join(kinds[r] for r in c["compress_ratios"][:-1])
    parameters = sum(p.numel() for p in training.model.parameters())
    idle = (c["n_routed_experts"] - c["num_experts_per_tok"]) * 3 * c["hidden_size"] * c["moe_intermediate_size"]
    active = parameters - idle * (c["num_hidden_layers"] + 1)
    sample_text = "\n\n".join("```text\n" + s.replace("```", "'''").rstrip() + "\n```" for s in samples)
    return f"""# nano

A {parameters / 1e6:.1f}-million-parameter model of the DeepSeek-V4 architecture, trained on real text, {size / 1e6:.1f} MB in the native checkpoint
layout. It exists to be run: every part of the large models is in it and has learnt something, and it answers at once on any device.

| | |
|---|---|
| layers | {c['num_hidden_layers']}: {layers}; plus one MTP block |
| width | hidden {c['hidden_size']}, {c['num_attention_heads']} heads of {c['head_dim']}, window {c['sliding_window']}, {c['hc_mult']} streams |
| experts | {c['n_routed_experts']} routed, {c['num_experts_per_tok']} active, 1 shared, inner size {c['moe_intermediate_size']}; {c['num_hash_layers']} layers hash-routed |
| indexer | {c['index_n_heads']} heads, top {c['index_topk']} |
| parameters | {parameters:,}, of which {active:,} are used per token (MTP block included in both) |
| storage | routed experts FP4, projections FP8, the rest BF16 and F32 |
| vocabulary | {c['vocab_size']}: byte-level BPE ({training.bytes_per_token:.2f} bytes per token) and the family's special tokens |

## Data

`{os.path.basename(args.text)}`, {len(train_text.encode()) + len(held_text.encode()):,} bytes. The last {len(held_text.encode()):,} bytes ({args.held_out:.0%}) were held out;
vocabulary and weights have seen only the {len(train_text.encode()):,} bytes before them. The text is not part of this folder.

## Held-out figures

| model | bits per byte |
|---|---|
| **nano, as stored here** (FP4/FP8 weights, FP8 cache rows) | **{exported['bits_per_byte']:.3f}** |
| nano before quantisation | {full['bits_per_byte']:.3f} |
| order-3 byte model (interpolated Kneser-Ney, same split) | {order3:.3f} |

Windows of 512 tokens advancing by 256; every byte of the held-out part is counted once. Cross-entropy {exported['nats']:.3f} nats per token.
MTP block: {exported['mtp_nats']:.3f} nats per token for the token after the next one; its best token is the one the main model then finds best
{exported['mtp_agreement']:.0%} of the time (greedy acceptance along the held-out text).

## Samples

Temperature 0.8, top-p 0.95, continuing the first line of the first whole held-out paragraph; then answering that paragraph as a chat message (`>`).

{sample_text}

## Training

`{args.command}`

{training.step:,} steps, {training.tokens:,} tokens ({training.tokens / len(training.windows.ids):.1f} passes over the training text), {training.seconds / 60:.0f} minutes on a shared CPU with
{args.threads} thread(s). Chat windows pair consecutive paragraphs as user and assistant; they are {args.chat:.0%} of all windows. The thinking,
tool and fill-in-the-middle tokens exist but were never trained. Windows had {args.window} tokens, {2 * args.window} from {args.quantise_from:.0%} of the training
on; longer contexts were not measured.
"""


def arguments():
    parser = argparse.ArgumentParser(description="Train a small DeepSeek-V4 model on a text file.")
    parser.add_argument("text", help="UTF-8 text, about a megabyte or more")
    parser.add_argument("--out", required=True, help="directory for the finished model")
    parser.add_argument("--minutes", type=float, default=45, help="length of the training")
    parser.add_argument("--steps", type=int, default=0, help="length in steps instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    parser.add_argument("--state", default="nano-training.pt", help="file for the training state")
    parser.add_argument("--save-every", type=float, default=240, help="seconds between saved states and held-out checks")
    parser.add_argument("--log-every", type=float, default=30, help="seconds between progress lines")
    model = parser.add_argument_group("model")
    model.add_argument("--ratios", default="0,0,4,128,4", help="compression ratio of every layer: 0, 4 or 128")
    model.add_argument("--hash-layers", type=int, default=2)
    model.add_argument("--hidden", type=int, default=192)
    model.add_argument("--heads", type=int, default=4)
    model.add_argument("--experts", type=int, default=8)
    model.add_argument("--active", type=int, default=2)
    model.add_argument("--vocab", type=int, default=1024)
    data = parser.add_argument_group("training")
    data.add_argument("--held-out", type=float, default=0.1, help="share of the file that is never trained on")
    data.add_argument("--window", type=int, default=256, help="tokens per window; twice as many from --quantise-from on")
    data.add_argument("--batch-tokens", type=int, default=2048, help="tokens per step")
    data.add_argument("--chat", type=float, default=0.15, help="share of windows in chat format")
    data.add_argument("--lr", type=float, default=4e-3)
    data.add_argument("--weight-decay", type=float, default=0.1)
    data.add_argument("--dropout", type=float, default=0.0)
    data.add_argument("--mtp-weight", type=float, default=0.2)
    data.add_argument("--index-weight", type=float, default=0.2)
    data.add_argument("--balance", type=float, default=3e-3, help="step of the router bias")
    data.add_argument("--float32", action="store_true", help="matrix products in float32 instead of BF16")
    data.add_argument("--quantise-from", type=float, default=0.6, help="share of the training without quantisation")
    args = parser.parse_args()
    words, shown = iter(sys.argv[1:]), ["python tools/train_nano.py"]
    for word in words:                                      # for the card: what was asked, without where it was put
        if word in ("--out", "--state"):
            next(words)
        elif word != "--resume":
            shown.append(os.path.basename(word) if os.sep in word else word)
    args.command = " ".join(shown + ["--out nano"])
    return args


def keep_freed_memory():
    """glibc returns every large block to the system and clears it again at the next use; that costs more than the work."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 30)       # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 30)       # M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        pass


def main():
    args = arguments()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    config = model_config(args)
    train_text, held_text = split_text(args.text, args.held_out)
    tokenizer = train_tokenizer(train_text, args.vocab)
    training = Training(args, config, tokenizer, train_text, held_text)
    print(f"{sum(p.numel() for p in training.model.parameters()):,} parameters; {len(training.windows.ids):,} training tokens of "
          f"{training.bytes_per_token:.2f} bytes; {len(training.held_ids):,} held out", flush=True)
    if args.resume:
        training.load()
    for stop in (signal.SIGINT, signal.SIGTERM):        # also in the background, where a shell lets Ctrl-C be ignored
        signal.signal(stop, signal.default_int_handler)
    try:
        training.run()
    except KeyboardInterrupt:
        training.save()
        sys.exit(f"\nstopped at step {training.step}; state saved, --resume goes on from it")
    training.save()
    finish(training, train_text, held_text)


if __name__ == "__main__":
    main()
