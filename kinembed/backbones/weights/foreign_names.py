"""Checkpoints of other people: finds a network's tensors under other names, or says what they are.

Training loops save more than a network's tensors, and prefix their names: `{"epoch": 3,
"state_dict": {"module.backbone.conv1.weight": …}}`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kinembed.backbones import BACKBONES
from kinembed.errors import KinembedError

State = dict[str, Tensor]

DEPTH = 4  # of dicts in dicts
LONGEST = 500  # letters of a name that a network could have
# Where a file holds a network more than once, the first of these is read, then any other.
USUAL_KEYS = ("", "state_dict", "model_state_dict", "model", "net", "network", "backbone", "params")
SMALL = (torch.float16, torch.bfloat16)

# Parts of tensors' names, and the networks of other projects that have them.
SIGNS = (
    (".attn.qkv.", "a vision transformer"),
    (".res_layer.", "an IR or IR-SE network"),
    ("layer1.0.prelu.", "an iresnet of InsightFace"),
    ("layer1.0.conv1.", "a ResNet of torchvision"),
    ("features.0.0.", "a network of torchvision"),
    ("features.0.", "a VGG or AlexNet of torchvision"),
)


def adapt(
    content: Mapping[str, Any], wanted: State, ignored: Sequence[str] = ()
) -> tuple[State, list[str]]:
    """The tensors of a checkpoint under the names that a network has for them.

    Takes the dict of tensors, and the prefix before their names, in which most of the network's
    names are found. Casts 16-bit floats to the network's float32. Leaves out a classifier: matrices
    and vectors of layers that the network does not have.

    Args:
        content: what the file holds: tensors by name, or dicts of them among other things.
        wanted: the network's tensors by name.
        ignored: names that are left out by whoever calls.

    Returns:
        The tensors, and what was done to them, in words. Where nothing fits they stay as they are.

    Raises:
        ValueError: several networks of this kind are in one dict.
    """
    dicts = dict(_dicts(content))
    if not dicts:
        return {}, []
    counts = {key: _prefixes(state, wanted) for key, state in dicts.items()}
    best = max(max(each.values(), default=0) for each in counts.values())
    fitting = [
        key for key, each in counts.items() if best and max(each.values(), default=0) == best
    ]
    key = min(fitting or dicts, key=_rank)
    state = dicts[key]
    said = [f"of its {key}"] if key else []
    if others := [other for other in fitting if other != key]:
        said.append(f"not of its {', '.join(others)}")
    prefixes = [prefix for prefix, count in counts[key].items() if count == best > 0]
    if len(prefixes) > 1 and best == len(wanted):
        raise ValueError(f"holds {len(prefixes)} such networks, {', '.join(prefixes)}; keep one")
    if prefixes and (prefix := min(prefixes, key=len)):
        inner = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
        state = {n: x for n, x in state.items() if not n.startswith(prefix)} | inner
        said.append(f"names without {prefix}")
    if small := [name for name, x in state.items() if x.dtype in SMALL and name in wanted]:
        said.append(f"{str(state[small[0]].dtype).removeprefix('torch.')} as float32")
        state = state | {n: state[n].float() for n in small if wanted[n].dtype == torch.float32}
    if extra := _classifier(state, wanted, ignored):
        said.append(f"without {', '.join(extra[:4])}{' …' if len(extra) > 4 else ''}")
        state = {name: x for name, x in state.items() if name not in extra}
    return state, said


def _classifier(state: State, wanted: State, ignored: Sequence[str]) -> list[str]:
    """The tensors of a classifier behind a network; none if more than that is left over.

    A layer of the network's own with other tensors makes it another network, and so does any layer
    of convolutions.
    """
    layers = {name.split(".")[0] for name in wanted}
    extra = [n for n in state if n not in wanted and n not in ignored and not _is_counter(n)]
    if any(name.split(".")[0] in layers or state[name].ndim > 2 for name in extra):
        return []
    return extra if any(state[name].ndim == 2 for name in extra) else []


def resemblance(content: Mapping[str, Any]) -> str:
    """Which network a file's tensors are like, in words; empty if like none that is known."""
    best: tuple[float, int, str] = (0.0, 0, "")  # share and number of its tensors
    for record in BACKBONES.values():
        if record.is_onnx:
            continue
        try:
            with torch.device("meta"):  # shapes, without the numbers
                wanted = record.build().state_dict()
            wanted = {n: x for n, x in wanted.items() if not _is_counter(n)}
            state, _ = adapt(content, wanted)
        except (KinembedError, ValueError):  # its package is missing, or there are several of it
            continue
        same = sum(n in state and state[n].shape == x.shape for n, x in wanted.items())
        best = max(best, (same / len(wanted), same, record.name))
    if best[0] >= 0.5:
        return f"{best[0]:.0%} of the tensors of --backbone {best[2]} are in it"
    names = [name for state in dict(_dicts(content)).values() for name in state]
    for sign, what in SIGNS:
        if any(sign in name for name in names):
            return f"it looks like {what}; export that as ONNX for kinembed embed --onnx"
    return ""


def _dicts(content: Mapping[str, Any]) -> Iterator[tuple[str, State]]:
    """The dicts of tensors in a checkpoint, each with the keys that lead to it."""
    waiting: list[tuple[str, int, Mapping[str, Any]]] = [("", 0, content)]
    seen: set[int] = set()  # a file may name one dict any number of times
    while waiting:
        key, depth, inner = waiting.pop(0)
        if id(inner) in seen or depth > DEPTH:
            continue
        seen.add(id(inner))
        named = {name: value for name, value in inner.items() if isinstance(name, str)}
        if tensors := {n: x for n, x in named.items() if isinstance(x, Tensor)}:
            yield key, tensors
        for name, value in named.items():
            if isinstance(value, Mapping) and len(name) < LONGEST:
                waiting.append((f"{key}.{name}" if key else name, depth + 1, value))


def _prefixes(names: Iterable[str], wanted: State) -> Counter[str]:
    """How many of the wanted names there are behind each prefix that ends in a dot, or is empty."""
    counts: Counter[str] = Counter()
    for name in names:
        if len(name) > LONGEST:
            continue
        start = 0
        while True:
            if name[start:] in wanted:
                counts[name[:start]] += 1
            dot = name.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return counts


def _rank(key: str) -> tuple[int, int]:
    last = key.rpartition(".")[2]
    known = USUAL_KEYS.index(last) if last in USUAL_KEYS else len(USUAL_KEYS)
    return known, key.count(".")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
