"""An isomorphism of two graphs whose colours agree, searched by a walk back from the outputs.

From an output on everything is forced, except the operands of commutative operators that look alike, and
outputs that have no counterpart yet. Those are chosen last, one at a time, and taken back where they lead
into a contradiction. Any isomorphism will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.refine import Level, leaf_marks, refine
from netfuse_onnx.match.sameness import commutative

TRIES = 5000
"""The number of choices after which the search gives up."""


@dataclass(slots=True)
class _State:
    """Pairs so far. `steps` maps a to b, `back` b to a; `inputs` and `inputs_back` do the same for open
    inputs. `open` holds groups of values that pair in any order: (values of a, values of b)."""

    steps: dict[int, int] = field(default_factory=dict)
    back: dict[int, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    inputs_back: dict[str, str] = field(default_factory=dict)
    open: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    def copy(self) -> _State:
        inputs = dict(self.inputs), dict(self.inputs_back)
        return _State(dict(self.steps), dict(self.back), *inputs, list(self.open))


class _Search:
    """The search for one isomorphism."""

    def __init__(self, a: Flat, b: Flat, colours: tuple[Sequence[int], Sequence[int]]) -> None:
        self.a, self.b = a, b
        self.colours = colours
        self.producer_a, self.producer_b = _producers(a), _producers(b)
        self.inputs = dict(zip(a.inputs, b.inputs, strict=True))
        self.wanted = self.inputs | dict(zip(a.outputs, b.outputs, strict=True))
        self.free_order = [commutative(step) for step in a.steps]

    def run(self) -> _State | None:
        """Return the pairs of steps; None where there is no isomorphism, or none within TRIES."""
        state = _State()
        outputs = list(zip(self.a.outputs, self.b.outputs, strict=True))
        unpaired = [pair for pair in outputs if pair[0] in self.a.open_outputs]
        if not self.follow(state, [pair for pair in outputs if pair not in unpaired]):
            return None
        if unpaired:
            state.open.append((tuple([x for x, _ in unpaired]), tuple([y for _, y in unpaired])))
        choices: list[tuple[_State, list[tuple[int, str, str]]]] = []
        for _ in range(TRIES):
            if not state.open:
                return state
            options = self.options(state)
            if len(options) > 1:
                choices.append((state.copy(), options[1:]))
            if options and self.choose(state, options[0]):
                continue
            resumed = self.resume(choices)
            if resumed is None:
                return None
            state = resumed
        return None

    def resume(self, choices: list[tuple[_State, list[tuple[int, str, str]]]]) -> _State | None:
        """Return the state after the next choice that was not tried yet and does not contradict at once."""
        while choices:
            saved, rest = choices.pop()
            if len(rest) > 1:
                choices.append((saved.copy(), rest[1:]))
            if self.choose(saved, rest[0]):
                return saved
        return None

    def options(self, state: _State) -> list[tuple[int, str, str]]:
        """Return ways to pair one operand, as (place in `open`, operand of a, operand of b), of the first
        group with at most one way, else of the first group. Proposed inputs and outputs come first, then
        equal names."""
        best: list[tuple[int, str, str]] = []
        for place, (ours, theirs) in enumerate(state.open):
            x = ours[0]
            pairs = [(place, x, y) for y in dict.fromkeys(theirs) if self.could(state, x, y)]
            if len(pairs) <= 1:
                return pairs
            best = best or sorted(pairs, key=lambda option: option[2] != self.wanted.get(x, x))
        return best

    def could(self, state: _State, x: str, y: str) -> bool:
        """Return True where value y may still stand for value x."""
        if x not in self.producer_a or y not in self.producer_b:
            return x not in self.producer_a and y not in self.producer_b and self.could_feed(state, x, y)
        (i, k), (j, m) = self.producer_a[x], self.producer_b[y]
        if k != m or self.colours[0][i] != self.colours[1][j]:
            return False
        return state.steps.get(i, j) == j and state.back.get(j, i) == i

    def outputs(self, state: _State) -> dict[str, str]:
        """Return the outputs of b by the open outputs of a."""
        pairs = {}
        for name in self.a.outputs:
            if name in self.a.open_outputs:
                producer = self.producer_a.get(name)
                twin = (
                    self.b.steps[state.steps[producer[0]]].outs[producer[1]]
                    if producer
                    else state.inputs.get(name)
                )
                pairs[name] = twin or self.inputs[name]
        return pairs

    def could_feed(self, state: _State, x: str, y: str) -> bool:
        """Return True where input y may still stand for input x."""
        mine, its = self.a.open_inputs.get(x), self.b.open_inputs.get(y)
        if mine is None or its is None:
            return mine == its and self.inputs.get(x) == y
        return mine == its and state.inputs.get(x, y) == y and state.inputs_back.get(y, x) == x

    def choose(self, state: _State, option: tuple[int, str, str]) -> bool:
        """Take one of the options. Returns False on a contradiction."""
        place, x, y = option
        ours, theirs = state.open.pop(place)
        at = theirs.index(y)
        if ours[1:]:
            state.open.append((ours[1:], theirs[:at] + theirs[at + 1 :]))
        return self.follow(state, [(x, y)])

    def follow(self, state: _State, pairs: list[tuple[str, str]]) -> bool:
        """Pair values and everything that follows from it. Returns False on a contradiction."""
        while pairs:
            x, y = pairs.pop()
            if not x or not y:
                if x or y:
                    return False
                continue
            if not self.could(state, x, y):
                return False
            if x in self.a.open_inputs:
                state.inputs[x], state.inputs_back[y] = y, x
            if x not in self.producer_a or self.producer_a[x][0] in state.steps:
                continue
            i, j = self.producer_a[x][0], self.producer_b[y][0]
            state.steps[i], state.back[j] = j, i
            ours = [n for n in self.a.steps[i].ins if n not in self.a.weights]
            theirs = [n for n in self.b.steps[j].ins if n not in self.b.weights]
            if len(ours) != len(theirs):
                return False
            if self.free_order[i] and len(ours) > 1:
                state.open.append((tuple(ours), tuple(theirs)))
            else:
                pairs += zip(ours, theirs, strict=True)
        return True


def correspondence(a: Flat, b: Flat, level: Level) -> Pairing | None:
    """Return a correspondence of steps whose colours agree at this level, or None."""
    colours = refine(a, b, level)
    return isomorphism(a, b, (colours.a, colours.b), level) if colours.equal else None


def isomorphism(
    a: Flat, b: Flat, colours: tuple[Sequence[int], Sequence[int]], level: Level
) -> Pairing | None:
    """Return a correspondence of all steps and weights, or None."""
    search = _Search(a, b, colours)
    state = search.run()
    if state is None or len(state.steps) != len(a.steps):
        return None
    steps = state.steps
    marks_a = dict(zip(a.uses, leaf_marks(a, level), strict=True))
    marks_b = dict(zip(b.uses, leaf_marks(b, level), strict=True))
    uses: list[str] = []
    for i, step in enumerate(a.steps):
        ours, theirs = _weight_slots(a, i), _weight_slots(b, steps[i])
        if len(ours) != len(theirs) or (ours != theirs and not commutative(step)):
            return None
        for k in ours:
            alike = [m for m in theirs if marks_b[steps[i], m] == marks_a[i, k]] or theirs
            chosen = k if k in alike else alike[0]
            theirs.remove(chosen)
            uses.append(b.steps[steps[i]].ins[chosen])
    return Pairing([steps[i] for i in range(len(a.steps))], uses, state.inputs, search.outputs(state))


def _weight_slots(flat: Flat, step: int) -> list[int]:
    """Return the operands of a step that are weights."""
    return [k for k, name in enumerate(flat.steps[step].ins) if name in flat.weights]


def _producers(flat: Flat) -> dict[str, tuple[int, int]]:
    """Map each value to its step and the index of the output."""
    return {name: (i, k) for i, step in enumerate(flat.steps) for k, name in enumerate(step.outs) if name}
