"""Training passes of a trunk with frozen BatchNorm, as fast as the processor does them.

BatchNorm with fixed statistics is a factor and an offset for each channel: folded into the kernels
before each pass, with gradients to both, it costs nothing that grows with the photos. On CPUs the
batch goes through in parts, one thread and one part for each processor: torch's own threads wait
for each other after each layer.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kinembed.training.copies import add_gradients, in_threads, sharing, take_back
from kinembed.training.cuda_graphs import InContext, RecordedPass


class FrozenNorm(nn.Module):
    """A convolution and the BatchNorm behind it, whose statistics are fixed, as one convolution.

    Args:
        conv: the convolution.
        norm: the BatchNorm; its factor and offset learn.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H', W')."""
        conv, norm = self.conv, self.norm
        factor = (cast(Tensor, norm.running_var) + norm.eps).rsqrt() * norm.weight
        bias = norm.bias - cast(Tensor, norm.running_mean) * factor
        if conv.bias is not None:
            bias = bias + conv.bias * factor
        weight = (conv.weight * factor[:, None, None, None]).contiguous(
            memory_format=torch.channels_last
        )
        return functional.conv2d(
            x, weight, bias, conv.stride, cast(tuple[int, int], conv.padding), conv.dilation,
            conv.groups,
        )  # fmt: skip


def fold_norms(network: nn.Module) -> fx.GraphModule:
    """The same network on the same parameters, each BatchNorm folded into its convolution.

    Args:
        network: traceable; tensors in and out. BatchNorms that do not stand right behind a
            convolution stay as they are.
    """
    graph = fx.symbolic_trace(network)
    modules = dict(graph.named_modules())
    count = 0
    for node in list(graph.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, nn.BatchNorm2d) else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv = modules.get(cast(str, before.target))  # none: one folded already
        if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros":
            continue
        if isinstance(conv.padding, str):
            continue
        name = f"folded_{count}"
        count += 1
        graph.add_submodule(name, FrozenNorm(conv, cast(nn.BatchNorm2d, norm)))
        with graph.graph.inserting_after(node):
            new = graph.graph.call_module(name, (before.args[0],))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        graph.graph.erase_node(before)
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def split_frozen(network: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """The part of a network that does not learn, and the rest: one after the other they are it.

    None where there is no such part, or more than one tensor goes from it to the rest.
    """
    modules = dict(network.named_modules())
    frozen: set[fx.Node] = set()
    for node in network.graph.nodes:
        module = modules[cast(str, node.target)] if node.op == "call_module" else None
        learns = module is not None and any(p.requires_grad for p in module.parameters())
        learns |= node.op in ("get_attr", "output") or not frozen.issuperset(node.all_input_nodes)
        if not learns:
            frozen.add(node)
    between = [node for node in frozen if any(user not in frozen for user in node.users)]
    if len(between) != 1 or between[0].op == "placeholder":
        return None
    graphs = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        if node in frozen:
            copies[node] = graphs[0].node_copy(node, copies.__getitem__)
    graphs[0].output(copies[between[0]])
    copies[between[0]] = graphs[1].placeholder("maps")
    for node in network.graph.nodes:
        if node not in frozen:
            copies[node] = graphs[1].node_copy(node, copies.__getitem__)
    first, second = (fx.GraphModule(network, graph) for graph in graphs)
    return first, second


class ReplicatedForward:
    """Passes of a network, forward and back, in as many parts as there are workers.

    The gradients add up in the parameters of `network`, as after its own backward pass.

    Where a part of the network does not learn, as the first stages of a trunk, `maps` gives what
    that part makes of photos, and after `skip_frozen` the passes take such maps in place of photos.

    Args:
        network: photos (N, …) to vectors (N, D); its BatchNorms are taken as frozen.
        workers: parts of a batch; 1 leaves threads to torch, as on a GPU.
        context: in what the passes forward run, as autocast; threads do not share it.
        records: record the passes of one worker, on a GPU.
    """

    def __init__(
        self,
        network: nn.Module,
        workers: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        records: bool = False,
    ) -> None:
        self.context = context
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        copies = [network, *(sharing(network) for _ in range(workers - 1))]
        self.copies = [fold_norms(each) for each in copies]
        self.frozen: list[fx.GraphModule] = []  # the parts that do not learn, once they are skipped
        self.network, self.others = network, copies[1:]
        self.pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self.parts: list[Tensor] = []
        self.records = records
        self.whole = self._whole()  # what a batch goes through that is not parted

    def forward(self, photos: Tensor) -> Tensor:
        """Vectors (N, D) of photos, detached from their graph: `backward` goes on from there."""
        if self.pool is None:
            self.parts = [self.whole(photos)]  # (N, D)
        else:
            chunks = photos.tensor_split(len(self.copies))  # (N / workers, 3, side, side) each
            self.parts = in_threads(self.pool, 1, self._pass, self.copies, chunks)
        return torch.cat([part.detach() for part in self.parts])

    def backward(self, gradient: Tensor) -> None:
        """Takes the loss's gradient by the vectors (N, D) back to the parameters."""
        sizes = [len(part) for part in self.parts]
        chunks = torch.split(gradient, sizes)
        if self.pool is None:
            self.parts[0].backward(chunks[0])  # type: ignore[no-untyped-call]
        else:
            in_threads(self.pool, 1, take_back, self.parts, chunks)
        self.parts = []
        add_gradients(self.network, self.others)

    def embed(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Vectors of batches of photos, without gradients, in their order."""
        return self._all_passes(self.copies, batches)

    def skip_frozen(self) -> bool:
        """Lets passes begin with what `maps` gives; False where there is no part to skip."""
        parts = [split_frozen(each) for each in self.copies]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return False
        self.frozen, self.copies = ([pair[number] for pair in found] for number in range(2))
        self.whole = self._whole()
        return True

    def maps(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """What the part that does not learn makes of batches of photos, in their order."""
        return self._all_passes(self.frozen, batches)

    def _all_passes(self, networks: Sequence[nn.Module], batches: Sequence[Tensor]) -> list[Tensor]:
        if self.pool is None:
            return self._passes(networks[0], batches)
        count = len(networks)
        shares = [batches[number::count] for number in range(count)]
        results = in_threads(self.pool, 1, self._passes, networks, shares)
        return [results[batch % count][batch // count] for batch in range(len(batches))]

    def _whole(self) -> Callable[[Tensor], Tensor]:
        network = InContext(self.copies[0], self.context)
        return RecordedPass(network) if self.records else network

    def _pass(self, network: nn.Module, photos: Tensor) -> Tensor:
        return cast(Tensor, InContext(network, self.context)(photos))

    def _passes(self, network: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [self._pass(network, photos) for photos in batches]

    def close(self) -> None:
        """Ends the threads."""
        if self.pool is not None:
            self.pool.shutdown()
