"""Trains "nano", a small model of the DeepSeek-V4 architecture that can chat, and exports it in the native layout.

    python tools/train_nano.py TEXT.txt --out DIRECTORY [--minutes 60 | --steps 5000] [--resume | --from MODEL]
    python tools/score_nano.py DIRECTORY TEXT.txt           # then: how many held-out questions it answers, into its card

It learns from conversations that chat_corpus.py generates, endless and all different, and from TEXT (plain English prose, about a
megabyte), whose last tenth is held out. A byte-level BPE vocabulary is made of both; the model (nano_model.py) is trained on rows
of three lengths, longer ones more often as time goes on; from --quantise-from on, every forward pass sees the weights and cache
rows as the FP8/FP4 checkpoint will hold them; the result is exported. DIRECTORY then holds config.json, generation_config.json,
tokenizer.json, tokenizer_config.json, model.safetensors and README.md, the model card.

In a share of the steps the window is a few rows: whatever is further back then has to be found among the compressed rows, which a
model that can see it nearby never learns to use.

What an answer consists of counts fully, the prompt before it a little. Ctrl-C (or SIGTERM) saves the training state; --resume goes
on from it, --from MODEL begins with the weights and the vocabulary of an exported model. Needs dsvk, torch, tokenizers,
safetensors, numpy; g++ to compile what lies between the products (else --plain). Runs on a CPU; those with BF16 products are best.
"""
import argparse
import collections
import ctypes
import itertools
import json
import math
import os
import random
import re
import signal
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import dsvk
from chat_corpus import COLOURS, NOUNS, SKILLS, example, examples, filler_lines
from dsvk import chat
from nano_checkpoint import export_checkpoint, load_checkpoint
from nano_model import Nano, initialise

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, THINK_END = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
FAMILY_TOKENS = [       # behind the byte-pair vocabulary, in the order of the large models
    "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", USER, ASSISTANT, "<|EOT|>", THINK, THINK_END, "｜DSML｜",
    "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>",
    "<｜extracted_url｜>", "<｜read_url｜>",
]
SPLITS = [              # the family's three pre-tokeniser patterns, applied one after the other
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
# Merges are learnt inside finer pieces: no digit joins another, no letter what stands before its word. So a word is the same tokens
# behind a space, a quote, a slash or a bracket, and copying it is copying tokens.
FINE_SPLIT = r"\p{N}|\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
SPACED = 192            # frequent words that get a token with the space before them all the same; none that answers copy

LENGTHS = (256, 1024, 4096)                                 # tokens of a row; chat_corpus sizes 0, 1, 2
POOL = 8                # conversations to choose from when a row is filled
SKILL_SHARES = dict(greet=3, fact=5, sum=9, tool=59, json=9, recall=11, decline=4)        # of the examples


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
        "rope_theta": 10000, "compress_rope_theta": 160000, "max_position_embeddings": 65536,
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


def vocabulary_text(text, seed):
    """Conversations without their special tokens, and a share of the text."""
    sample = [text[:300000]]
    for size, count in ((0, 1400), (1, 600)):
        made = examples("train", seed, filler_lines(text), size=size)
        sample += [re.sub("<think>|</think>|<?/?｜[^｜]+｜>?", "\n", chat.encode(e.messages, **e.parameters))
                   for e in (next(made) for _ in range(count))]
    return sample


def train_tokenizer(sample, vocab_size):
    """Byte-level BPE with the family's pre-tokeniser and special tokens: 0, 1, 2, then bytes and merges, then the rest."""
    def pieces(*patterns):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
                                       + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pieces(FINE_SPLIT), decoders.ByteLevel()
    tokenizer.train_from_iterator(sample, trainers.BpeTrainer(
        vocab_size=vocab_size - len(FAMILY_TOKENS) - SPACED, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made = json.loads(tokenizer.to_str())
    vocab, merges = made["model"]["vocab"], made["model"]["merges"]
    frequent = collections.Counter(word for part in sample for word in re.findall(" ([a-z]+)", part))
    words = [word for word, _ in frequent.most_common() if word in vocab and word not in NOUNS + COLOURS][:SPACED]
    for word in words:
        vocab["Ġ" + word] = len(vocab)
        merges.append(["Ġ", word])
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.pre_tokenizer = pieces(*SPLITS)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=t == "<|EOT|>") for t in FAMILY_TOKENS])
    assert tokenizer.get_vocab_size() == vocab_size, "the text is too short for this vocabulary"
    return tokenizer


def write_tokenizer(tokenizer, config, directory):
    os.makedirs(directory, exist_ok=True)
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


class Rows:
    """Training rows: as many whole conversations as fit, or running text. Each token has the weight of its prediction."""

    def __init__(self, text, tokenizer, args):
        """tokenizer: dsvk's"""
        self.tokenizer, self.args, self.rng = tokenizer, args, random.Random(args.seed)
        self.filler = filler_lines(text)
        self.text = np.array(tokenizer.encode(text))
        self.paragraph_at = np.cumsum([0] + [len(tokenizer.encode(part + "\n\n")) for part in text.split("\n\n")])[:-1]
        self.id = {token: tokenizer.id(token) for token in (BOS, EOS, ASSISTANT, THINK, THINK_END)}
        self.waiting = [[] for _ in LENGTHS]                    # conversations that did not fit into the row at hand

    def batch(self, size, tokens):
        """-> ids, weights [tokens / length, length + 1]"""
        rows = [self.row(size) for _ in range(max(1, tokens // LENGTHS[size]))]
        return [torch.from_numpy(np.stack([row[i] for row in rows])) for i in (0, 1)]

    def row(self, size):
        length = LENGTHS[size] + 1
        if self.rng.random() < self.args.text_share:
            at = self.rng.choice(self.paragraph_at[self.paragraph_at < len(self.text) - length])
            ids = np.concatenate([[self.id[BOS]], self.text[at:at + length - 1]])
            return ids, np.full(length, self.args.text_weight, np.float32)
        ids, weights, at = np.full(length, self.id[EOS]), np.zeros(length, np.float32), 0
        waiting = self.waiting[size]
        while True:
            fits = next((i for i, (more, _) in enumerate(waiting) if at + len(more) <= length), None)
            if fits is None:
                if len(waiting) == POOL:
                    return ids, weights
                waiting.append(self.conversation(size))
                continue
            more, weight = waiting.pop(fits)
            ids[at:at + len(more)], weights[at:at + len(more)] = more, weight
            at += len(more)

    def conversation(self, size):
        """One that fits into a row."""
        while True:
            skill = self.rng.choices(list(SKILL_SHARES), SKILL_SHARES.values())[0]
            made = example(self.rng, "train", skill, self.filler, size)
            ids = np.array(chat.encode_ids(self.tokenizer, made.messages, **made.parameters))
            if len(ids) <= LENGTHS[size]:
                return ids, self.weigh(ids)

    def weigh(self, ids):
        """1 for what an assistant says, its end included; a little for the rest."""
        weights = np.full(len(ids), self.args.prompt_weight, np.float32)
        for begin, end in answers(ids, self.id):
            weights[begin:end] = 1
        return weights


def answers(ids, special):
    """[begin, end) of every answer in a conversation: behind the token that opens or closes thinking, with the end token."""
    ends = np.flatnonzero(ids == special[EOS])
    for at in np.flatnonzero(ids == special[ASSISTANT]):
        end = ends[np.searchsorted(ends, at)] + 1
        yield at + 2, end


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
                if p.grad is None:
                    continue
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
    for name, p in model.parameters().items():
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
def bits_per_byte(model, ids, n_bytes, window=512, fresh=256, batch=8):
    """Of a text as stored ids, in windows that overlap by half; every byte counts once, the first window's all."""
    ids = torch.cat([torch.tensor([model.config["bos_token_id"]]), torch.as_tensor(ids)])
    ids = F.pad(ids, (0, -(len(ids) - 1 - window) % fresh), value=-1)
    rows, nats = ids.unfold(0, window + 1, fresh), 0.0
    for i in range(0, len(rows), batch):
        x = rows[i:i + batch]
        logits, _ = model.evaluate(x[:, :-1].clamp(min=0), ahead=False)
        loss = F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none", ignore_index=-1)
        nats += loss[:, window - fresh:].double().sum().item() + (loss[0, :window - fresh].double().sum().item() if i == 0 else 0)
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def predicted_answers(model, rows, seed, count, size):
    """{skill: (share of held-out answers all of whose tokens are the most likely ones, so that greedy decoding says them word for
    word; share of their tokens)}"""
    result = {}
    for skill in SKILLS:
        right, tokens, total = 0, 0, 0
        for made in itertools.islice(examples("held-out", seed, rows.filler, (skill,), size), count):
            ids = np.array(chat.encode_ids(rows.tokenizer, made.messages, **made.parameters))
            logits, _ = model.evaluate(torch.from_numpy(ids[:-1]).unsqueeze(0), ahead=False)
            same = (logits[0].argmax(-1).numpy() == ids[1:])
            begin, end = list(answers(ids, rows.id))[-1]
            said = same[begin - 1:end - 1]
            right, tokens, total = right + said.all(), tokens + said.sum(), total + len(said)
        result[skill] = right / count, tokens / total
    return result


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------

def learning_rate(peak, done, steady):
    """Warm-up over the first 2 %, the peak until `steady`, then down to 2 % of it in a straight line."""
    return peak * min(1, done / 0.02 + 0.01, max(0.02, 1 - 0.98 * (done - steady) / (1 - steady)))


class Training:
    """Model, optimisers, data and how far they have come; one object to save and to resume."""

    def __init__(self, args, config, tokenizer, train_text, held_text):
        self.args, self.config = args, config
        torch.manual_seed(args.seed)
        self.rows = Rows(train_text, tokenizer, args)
        self.held_ids, self.held_bytes = tokenizer.encode(held_text), len(held_text.encode())
        self.model = Nano(config, half=not args.float32, fused=not args.plain)
        self.plain = Nano(config, half=not args.float32)                # for measuring, where shapes vary
        self.plain.weights = self.model.weights
        frequency = torch.bincount(self.rows.batch(1, 1 << 17)[0].flatten(), minlength=config["vocab_size"])
        initialise(self.model, frequency, torch.Generator().manual_seed(args.seed))
        self.optimisers = make_optimisers(self.model, args.weight_decay)
        self.step, self.seconds, self.tokens = 0, 0.0, 0

    def done(self):
        return self.step / self.args.steps if self.args.steps else self.seconds / (60 * self.args.minutes)

    def save(self):
        torch.save(dict(model=self.model.weights, optimisers=[o.state_dict() for o in self.optimisers],
                        step=self.step, seconds=self.seconds, tokens=self.tokens, rng=self.rows.rng.getstate(),
                        torch_rng=torch.get_rng_state()), self.args.state + ".part")
        os.replace(self.args.state + ".part", self.args.state)

    def load(self):
        saved = torch.load(self.args.state, weights_only=False)
        self.model.load_weights(saved["model"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        self.step, self.seconds, self.tokens = saved["step"], saved["seconds"], saved["tokens"]
        self.rows.rng.setstate(saved["rng"])
        torch.set_rng_state(saved["torch_rng"])

    def compile(self):
        """Runs every shape once, so that the clock of the schedule counts training only."""
        rng = self.rows.rng.getstate(), torch.get_rng_state()
        for size in range(len(LENGTHS)):
            for ahead, everything, quantised in ((False, True, False), (True, False, False), (True, False, True)):
                began, self.model.select_all = time.time(), everything
                with self.model.as_exported(quantised):
                    sum(self.losses(size, ahead)[:3]).backward()
                print(f"rows of {LENGTHS[size]}: {time.time() - began:.0f} s", flush=True)
        for p in self.model.parameters().values():
            p.grad = None
        self.rows.rng.setstate(rng[0])
        torch.set_rng_state(rng[1])

    def one_step(self):
        """-> loss of the answers and of the next-but-one tokens in nats per token, indexer divergence."""
        args, done, model = self.args, self.done(), self.model
        rate = learning_rate(args.lr, done, args.steady)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
        model.select_all = done < args.select_from
        late = min(1, done / args.mixed_from)
        size = self.rows.rng.choices(range(len(LENGTHS)), (1 - 0.6 * late, 0.3 + 0.26 * late, 0.04 * late))[0]
        model.near_rows = args.near_rows if self.rows.rng.random() < args.near_share else model.config["sliding_window"]
        with model.as_exported(done >= args.quantise_from):
            loss, index, mtp, answer, tokens = self.losses(size, done >= args.mtp_from)
            (loss + args.index_weight * index + args.mtp_weight * mtp).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters().values(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        model.balance_experts(args.balance * (1 - done))
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        return answer.item(), mtp.item(), index.item()

    def losses(self, size, ahead):
        """Of a new batch: loss, indexer divergence, loss of the MTP block, of the answers alone (for the eye); its tokens."""
        ids, weights = self.rows.batch(size, self.args.batch_tokens)
        now, next_but_one = self.model.forward(ids[:, :-1], ahead)
        loss, answer = self.loss(now, ids[:, 1:], weights[:, 1:])
        index, mtp = torch.stack(self.model.index_losses).mean(), torch.zeros(())
        if ahead:
            mtp, _ = self.loss(next_but_one, F.pad(ids[:, 2:], (0, 1)), F.pad(weights[:, 2:], (0, 1)))
        return loss, index, mtp, answer, ids[:, 1:].numel()

    def loss(self, hidden, targets, weights):
        """Weighted mean of the cross-entropy, and that of the answers alone. Of prompts only a sample is looked at."""
        weights, targets = weights.flatten(), targets.flatten()
        at = torch.nonzero((weights == 1) | ((weights > 0) & (torch.rand(len(weights)) < self.args.prompt_sample))).squeeze(1)
        kept = F.pad(weights[at], (0, -len(at) % 256))                         # few different shapes; the filling counts nothing
        at = F.pad(at, (0, len(kept) - len(at)))
        nats = F.cross_entropy(self.model.logits(hidden[at]), targets[at], reduction="none")
        said = (kept == 1).float()
        return (nats * kept).sum() / kept.sum().clamp(min=1), (nats.detach() * said).sum() / said.sum().clamp(min=1)

    def run(self):
        args, recent, began = self.args, [], time.time() - self.seconds
        next_line, next_save = self.seconds + 15, self.seconds + args.save_every
        while self.done() < 1:
            recent.append(self.one_step())
            self.seconds = time.time() - began
            if self.seconds >= next_line:
                main, mtp, index = np.mean(recent, 0)
                left = self.seconds / max(self.done(), 1e-9) - self.seconds
                print(f"step {self.step:5d}  {self.seconds / 60:5.1f} min  answers {main:.3f}  mtp {mtp:.3f}  index {index:.3f}"
                      f"  {self.tokens / self.seconds:.0f} tok/s  ETA {left / 60:.1f} min", flush=True)
                recent, next_line = [], self.seconds + args.log_every
            if self.seconds >= next_save:
                self.save()
                self.report()
                next_save = self.seconds + args.save_every

    def report(self):
        self.plain.select_all = self.model.select_all
        with self.plain.as_exported(self.done() >= self.args.quantise_from):
            found = predicted_answers(self.plain, self.rows, self.step, self.args.look_at, 1)
        print(f"step {self.step:5d}  held-out answers (tokens): "
              + "  ".join(f"{skill} {whole:.0%} ({tokens:.0%})" for skill, (whole, tokens) in found.items()), flush=True)


# ---------------------------------------------------------------------------------------------------------------
# Result
# ---------------------------------------------------------------------------------------------------------------

def finish(training):
    """Export, load back, measure, write the card."""
    args, config = training.args, training.config
    export_checkpoint(training.model.weights, config, args.out)
    loaded = Nano(config)
    loaded.load_weights(load_checkpoint(args.out)[1])
    loaded.quantised = True
    card = model_card(training, bits_per_byte(loaded, training.held_ids, training.held_bytes))
    with open(os.path.join(args.out, "README.md"), "w", encoding="utf-8") as f:
        f.write(card)
    print(card)


def model_card(training, held_out_bits):
    args, c, rows = training.args, training.config, training.rows
    size = sum(os.path.getsize(os.path.join(args.out, f)) for f in os.listdir(args.out) if f != "README.md")
    kinds = {0: "SWA", 4: "CSA", 128: "HCA"}
    layers = ", ".join(kinds[r] for r in c["compress_ratios"][:-1])
    parameters = sum(p.numel() for p in training.model.parameters().values())
    idle = (c["n_routed_experts"] - c["num_experts_per_tok"]) * 3 * c["hidden_size"] * c["moe_intermediate_size"]
    active = parameters - idle * (c["num_hidden_layers"] + 1)
    return f"""# nano

A {parameters / 1e6:.1f}-million-parameter chat model of the DeepSeek-V4 architecture, {size / 1e6:.1f} MB in the native checkpoint layout. It exists to
be run: every part of the large models is in it and has learnt something, it answers at once on any device, and it uses what a
server offers: thinking, tools, JSON, documents longer than its window. It knows little and only the wordings that it was trained on.

| | |
|---|---|
| layers | {c['num_hidden_layers']}: {layers}; plus one MTP block |
| width | hidden {c['hidden_size']}, {c['num_attention_heads']} heads of {c['head_dim']}, window {c['sliding_window']}, {c['hc_mult']} streams |
| experts | {c['n_routed_experts']} routed, {c['num_experts_per_tok']} active, 1 shared, inner size {c['moe_intermediate_size']}; {c['num_hash_layers']} layers hash-routed |
| indexer | {c['index_n_heads']} heads, top {c['index_topk']} |
| parameters | {parameters:,}, of which {active:,} are used per token (MTP block included in both) |
| storage | routed experts FP4, projections FP8, the rest BF16 and F32 |
| vocabulary | {c['vocab_size']}: byte-level BPE and the family's special tokens |

## Scores

Not scored yet: `python tools/score_nano.py DIRECTORY {os.path.basename(args.text)}` writes them here.

## Data

Conversations generated by `tools/chat_corpus.py` (seed {args.seed}), all different: greetings and a table of facts, sums with a thinking part,
calls of offered tools, JSON answers, recall of a line of a document, polite refusals. A hash of what is asked keeps one question in
eight for scoring. And `{os.path.basename(args.text)}`, of which the last {args.held_out:.0%} were held out: {held_out_bits:.3f} bits per byte there (as stored here: FP4/FP8
weights, FP8 cache rows; windows of 512 tokens advancing by 256). The text is not part of this folder.

## Training

`{args.command}`

{training.step:,} steps, {training.tokens:,} tokens, {training.seconds / 60:.0f} minutes on a shared CPU with {args.threads} thread(s). Rows had {', '.join(map(str, LENGTHS))} tokens. The schedule
follows the clock, so a repetition gives other weights. The fill-in-the-middle and task tokens exist but were never trained.
"""


def arguments():
    parser = argparse.ArgumentParser(description="Train a small DeepSeek-V4 chat model.")
    parser.add_argument("text", help="UTF-8 text, about a megabyte or more")
    parser.add_argument("--out", required=True, help="directory for the finished model")
    parser.add_argument("--minutes", type=float, default=60, help="length of the training")
    parser.add_argument("--steps", type=int, default=0, help="length in steps instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    parser.add_argument("--from", dest="begin", metavar="MODEL", help="begin with an exported model and its vocabulary")
    parser.add_argument("--state", default="nano-training.pt", help="file for the training state")
    parser.add_argument("--save-every", type=float, default=480, help="seconds between saved states and held-out checks")
    parser.add_argument("--look-at", type=int, default=10, help="held-out answers per skill in a check")
    parser.add_argument("--log-every", type=float, default=30, help="seconds between progress lines")
    parser.add_argument("--plain", action="store_true", help="compile nothing")
    parser.add_argument("--float32", action="store_true", help="matrix products in float32 instead of BF16")
    model = parser.add_argument_group("model")
    model.add_argument("--ratios", default="0,0,4,128,4", help="compression ratio of every layer: 0, 4 or 128")
    model.add_argument("--hash-layers", type=int, default=2)
    model.add_argument("--hidden", type=int, default=192)
    model.add_argument("--heads", type=int, default=4)
    model.add_argument("--experts", type=int, default=8)
    model.add_argument("--active", type=int, default=2)
    model.add_argument("--vocab", type=int, default=2048)
    data = parser.add_argument_group("training")
    data.add_argument("--held-out", type=float, default=0.1, help="share of the text that is never trained on")
    data.add_argument("--batch-tokens", type=int, default=4096, help="tokens per step")
    data.add_argument("--text-share", type=float, default=0.1, help="share of rows that are running text")
    data.add_argument("--text-weight", type=float, default=0.3, help="weight of a token of running text; one of an answer has 1")
    data.add_argument("--prompt-weight", type=float, default=0.3, help="weight of a prompt's token, where it is looked at")
    data.add_argument("--prompt-sample", type=float, default=0.2, help="share of prompts' and text's tokens looked at")
    data.add_argument("--lr", type=float, default=4e-3)
    data.add_argument("--steady", type=float, default=0.6, help="share of the training at the full learning rate")
    data.add_argument("--weight-decay", type=float, default=0.1)
    data.add_argument("--mtp-weight", type=float, default=0.2)
    data.add_argument("--index-weight", type=float, default=0.2)
    data.add_argument("--balance", type=float, default=3e-3, help="step of the router bias")
    data.add_argument("--near-share", type=float, default=0.5, help="share of the steps in which the window is short, so that "
                      "what is further back has to come from compressed rows")
    data.add_argument("--near-rows", type=int, default=16, help="that short")
    data.add_argument("--mixed-from", type=float, default=0.3, help="share of the training until which rows grow longer")
    data.add_argument("--select-from", type=float, default=0.5, help="share of the training in which attention sees every entry")
    data.add_argument("--mtp-from", type=float, default=0.6, help="share of the training without the MTP block")
    data.add_argument("--quantise-from", type=float, default=0.75, help="share of the training without quantisation")
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
    train_text, held_text = split_text(args.text, args.held_out)
    config, weights = load_checkpoint(args.begin) if args.begin else (model_config(args), None)
    if args.begin or args.resume:
        tokenizer = Tokenizer.from_file(os.path.join(args.begin or args.out, "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(vocabulary_text(train_text, args.seed), args.vocab)
    write_tokenizer(tokenizer, config, args.out)
    training = Training(args, config, dsvk.Tokenizer(args.out), train_text, held_text)
    if weights:
        training.model.load_weights(weights)
    print(f"{sum(p.numel() for p in training.model.parameters().values()):,} parameters", flush=True)
    if args.resume:
        training.load()
    for stop in (signal.SIGINT, signal.SIGTERM):        # also in the background, where a shell lets Ctrl-C be ignored
        signal.signal(stop, signal.default_int_handler)
    try:
        if not args.plain:
            training.compile()
        training.run()
    except KeyboardInterrupt:
        training.save()
        sys.exit(f"\nstopped at step {training.step}; state saved, --resume goes on from it")
    training.save()
    finish(training)


if __name__ == "__main__":
    main()
