"""The live view of a pull on a terminal. Imports rich, so it is imported only when it is shown."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exo_dl.cli.plain import time_left_s
from exo_dl.cli.text import clean, human_bytes, human_rate, human_time, percent
from exo_dl.types import NodePull, NodeState, Pull

__all__ = ["LiveView", "render"]

_STYLE = {"held": "bright_black", "hub": "green", "peers": "cyan", "rest": "grey35"}
_STATE_STYLE = {
    NodeState.DONE: "green",
    NodeState.FAILED: "bold red",
    NodeState.LOST: "bold red",
    NodeState.CANCELLED: "yellow",
}
_MIN_BAR = 10
_MAX_BAR = 40
_MAX_NAME = 24
# What the columns beside name and bar need: with rates and byte counts, with rates, with neither.
_WIDE, _MEDIUM, _NARROW = 92, 68, 30
_MAX_FAULTS = 3


class LiveView:
    """A bar for each node, and a line for the cluster, redrawn in place."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console() if console is None else console
        # The screen is drawn when news come, from this thread: no second thread, no timer.
        self._live = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._started = False

    def update(self, pull: Pull) -> None:
        """Draws the newest state."""
        if not self._started:
            self._started = True
            self._live.start()
        width, height = self._console.size
        self._live.update(render(pull, width=width, height=height), refresh=True)

    def close(self) -> None:
        """Leaves the last state on the screen and gives the cursor back."""
        if self._started:
            self._started = False
            self._live.stop()


def render(pull: Pull, *, width: int, height: int) -> Group:
    """The view for a terminal of ``width`` by ``height`` characters."""
    title = Text.assemble(
        (clean(pull.repo), "bold"),
        f" at {pull.commit[:12]}  {pull.files} files, {human_bytes(pull.model_bytes)}",
        no_wrap=True,
        overflow="ellipsis",
    )
    faults = [_line(event, "yellow") for event in pull.events[-_MAX_FAULTS:]]
    errors = [_line(f"{node.name}: {node.error}", "red") for node in pull.nodes if node.error]
    faults.extend(errors[:_MAX_FAULTS])
    room = max(1, height - 4 - len(faults))
    nodes = pull.nodes
    hidden = 0
    if len(nodes) > room:
        # Those that still work are worth the room; the sort is stable, so the rest keeps its order.
        nodes = tuple(sorted(nodes, key=lambda node: node.state is NodeState.DONE))
        hidden = len(nodes) - (room - 1)
        nodes = nodes[: room - 1]
    names = min(_MAX_NAME, max((len(clean(node.name)) for node in pull.nodes), default=0))
    beside = next((need for need in (_WIDE, _MEDIUM) if width >= names + _MIN_BAR + need), _NARROW)
    bar = max(_MIN_BAR, min(_MAX_BAR, width - names - beside))

    grid = Table.grid(padding=(0, 1))
    grid.add_column(max_width=_MAX_NAME, no_wrap=True, overflow="ellipsis")
    for _ in range(6):
        grid.add_column(no_wrap=True)
    for node in nodes:
        grid.add_row(*_node_cells(node, bar=bar, beside=beside))
    parts: list[RenderableType] = [title, grid]
    if hidden:
        parts.append(Text(f"... and {hidden} more nodes", style="bright_black"))
    return Group(*parts, _cluster(pull), *faults)


def _node_cells(node: NodePull, *, bar: int, beside: int) -> list[Text]:
    def source(label: str, count: int, rate: float, style: str) -> Text:
        if beside < _MEDIUM:
            return Text("")
        shown = f"{label} {human_rate(rate)}" if node.state is NodeState.PULLING else label
        return Text(f"{shown} ({human_bytes(count)})" if beside >= _WIDE else shown, style=style)

    left_s = time_left_s(node)
    if node.state is NodeState.PULLING and left_s >= 0:
        last = Text(f"{human_time(left_s)} left")
    else:
        last = Text(node.state.value, style=_STATE_STYLE.get(node.state, ""))
    total = f"{human_bytes(node.bytes_done)}/{human_bytes(node.bytes_wanted)}" if beside >= _MEDIUM else ""
    return [
        Text(clean(node.name)),
        _bar(node, bar),
        Text(percent(node.bytes_done, node.bytes_wanted).rjust(5) if node.bytes_wanted else ""),
        Text(total),
        source("hub", node.bytes_from_hub, node.hub_bytes_per_s, _STYLE["hub"]),
        source("peers", node.bytes_from_peers, node.peer_bytes_per_s, _STYLE["peers"]),
        last,
    ]


def _line(text: str, style: str) -> Text:
    return Text(clean(text), style=style, no_wrap=True, overflow="ellipsis")


def _bar(node: NodePull, width: int) -> Text:
    """What is done, coloured by where it came from."""
    text = Text()
    wanted = max(1, node.bytes_wanted)
    filled = width if node.bytes_done >= node.bytes_wanted > 0 else node.bytes_done * width // wanted
    sources = {"held": node.bytes_held, "hub": node.bytes_from_hub, "peers": node.bytes_from_peers}
    known = sum(sources.values())
    begin = passed = 0
    for name, count in sources.items():
        passed += count
        end = filled * passed // known if known else 0
        text.append("━" * (end - begin), style=_STYLE[name])
        begin = end
    text.append("━" * (filled - begin), style=_STYLE["held"])
    text.append("━" * (width - filled), style=_STYLE["rest"])
    return text


def _cluster(pull: Pull) -> Text:
    hub = sum(node.hub_bytes_per_s for node in pull.nodes)
    peers = sum(node.peer_bytes_per_s for node in pull.nodes)
    done = sum(node.state is NodeState.DONE for node in pull.nodes)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("cluster ", style="bold")
    text.append(percent(pull.bytes_done, pull.bytes_wanted) if pull.bytes_wanted else pull.state.value)
    text.append(f"  {done}/{len(pull.nodes) + len(pull.lost_nodes)} nodes")
    for name, rate, count in (("hub", hub, pull.bytes_from_hub), ("peers", peers, pull.bytes_from_peers)):
        speed = "" if pull.state.ended else f"{human_rate(rate)} "
        text.append(f"  {name} {speed}({human_bytes(count)})", style=_STYLE[name])
    text.append(f"  {human_time(pull.wall_s)}")
    if not pull.state.ended and pull.remaining_s >= 0:
        text.append(f", {human_time(pull.remaining_s)} left")
    if pull.bound_s > 0:
        text.append(f" (least {human_time(pull.bound_s)})", style="bright_black")
    return text
