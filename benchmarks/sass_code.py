"""What the compiler made of CUDA kernels: instructions, loops and resources, from its listings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

# `/*01a0*/  @!P0 BRA 0x3ae0 ;  /* 0x... */` of `cuobjdump -sass`.
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);")
_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_BARRIER = re.compile(r"\bB\d+\b")
# `cuobjdump -elf` tells the threads that __launch_bounds__ gives.
_SECTION = re.compile(r"^\.nv\.info\.(\S+)$", re.MULTILINE)
_THREADS = re.compile(r"EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:((?:\s+0x[0-9a-f]+){3})")
# Lines of `ptxas -v`.
_COMPILED = re.compile(r"Compiling entry function '(\S+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")

# Opcodes by kind. The first pattern that fits decides; the rest are integers.
_KINDS = [
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"[HIBDQ]G?MMA", "tensor"),
        (r"D(ADD|MUL|FMA|SETP)", "double"),
        (r"MUFU", "special"),
        (r"(I2F|F2I|F2F|I2I|FRND)(?!P)", "conversion"),
        (r"(SHFL|VOTE|MATCH|REDUX)", "shuffle"),
        (r"LDGSTS", "async copy"),
        (r"LDS", "shared load"),
        (r"(STS|ATOMS)", "shared store"),
        (r"LDG(?!DEP)|LD(?![A-Z])", "global load"),
        (r"STG|ST(?![A-Z])|RED(?!UX)|ATOM", "global store"),
        (r"(LDL|STL)", "local"),
        (r"U?LDC", "constant"),
        (r"(BAR|DEPBAR|LDGDEPBAR|MEMBAR|(CGA)?ERRBAR|WARPSYNC|CCTL)", "barrier"),
        (r"(BRA|BRX|JMP|BSSY|BSYNC|BREAK|CALL|RET|EXIT|NOP|YIELD|ENDCOLL)", "control"),
        (r"(IMAD\.MOV|MOV|CS2R|S2U?R|R2UR|UMOV)", "move"),
        (r"(IMAD|IDP)", "multiply"),
        (r"(F2FP|I2FP)", "packing"),
        (r"F(?!LO)|H[A-Z]+2", "float"),
        (r"U", "uniform"),
    )
]
KINDS = (
    "tensor", "float", "double", "special", "conversion", "packing", "integer", "multiply",
    "uniform", "move", "shuffle", "shared load", "shared store", "global load", "global store",
    "async copy", "constant", "local", "barrier", "control",
)  # fmt: skip
# Calls of functions, and those of warps whose threads have parted where they shuffle.
CALLS = r"CALL.*|WARPSYNC\.COLLECTIVE.*"
GLOBAL = ("global load", "global store", "async copy")


def kind_of(opcode: str) -> str:
    """Return what an opcode does, one of KINDS."""
    return next((kind for pattern, kind in _KINDS if pattern.match(opcode)), "integer")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes
    ----------
    address
        In bytes from the beginning of the kernel.
    predicate
        The register that it depends on, or an empty string.
    opcode
        With its modifiers: ``LDG.E.128``.
    operands
        The rest of the line.
    """

    address: int
    predicate: str
    opcode: str
    operands: str

    @cached_property
    def kind(self) -> str:
        """One of KINDS."""
        return kind_of(self.opcode)

    @cached_property
    def bits(self) -> int:
        """What a lane loads or stores; 32 where the opcode does not say otherwise."""
        parts = self.opcode.split(".")
        if parts[0] == "LDSM":  # 1, 2 or 4 matrices of 8 x 8 values: a word a lane each
            return 32 * int(parts[-1]) if parts[-1].isdigit() else 32
        for part in parts[1:]:
            if part in ("128", "64", "U16", "S16", "U8", "S8", "16", "8"):
                return int(part.lstrip("US"))
        return 32

    @property
    def target(self) -> int | None:
        """Where a branch goes, if the instruction names a place."""
        found = _TARGET.search(self.operands)
        return int(found[1], 16) if found else None

    @property
    def conditional(self) -> bool:
        """Whether the next instruction may follow a branch."""
        if self.opcode.startswith("BRA.DIV"):  # if the threads of the warp have parted
            return True
        return bool(self.predicate) or re.search(r"\bU?P\d", self.operands) is not None


@dataclass(frozen=True)
class Loop:
    """A natural loop: from where it is entered, all that leads back there."""

    header: int
    code: tuple[Instruction, ...]

    @cached_property
    def kinds(self) -> Counter[str]:
        """Number of instructions of each kind; both sides of a condition count."""
        return Counter(instruction.kind for instruction in self.code)

    def contains(self, other: Loop) -> bool:
        """Whether another loop lies within."""
        mine = {instruction.address for instruction in self.code}
        return self is not other and mine > {instruction.address for instruction in other.code}


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of a multiprocessor; bytes, shared memory without the dynamic part."""

    registers: int
    stack: int
    spills: int
    shared: int


def functions(listing: str) -> dict[str, list[Instruction]]:
    """Read `cuobjdump -sass`: the instructions of each kernel, by its mangled name."""
    parts = _FUNCTION.split(listing)[1:]
    return {
        name: [
            Instruction(int(address, 16), predicate or "", opcode, operands.strip())
            for address, predicate, opcode, operands in _INSTRUCTION.findall(body)
        ]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def launch_bounds(listing: str) -> dict[str, int]:
    """Read `cuobjdump -elf`: the most threads of a block, where a kernel says so."""
    parts = _SECTION.split(listing)[1:]
    found = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        threads = _THREADS.search(body)
        if threads:
            x, y, z = (int(each, 16) for each in threads[1].split())
            found[name] = x * y * z
    return found


def resources(log: str) -> dict[str, Resources]:
    """Read what `ptxas -v` says of each kernel."""
    parts = _COMPILED.split(log)[1:]
    found = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        frame, used = _FRAME.search(body), _USED.search(body)
        if frame is None or used is None:
            raise ValueError(f"ptxas says nothing of the registers of {name}")
        stack, stores, loads = (int(each) for each in frame.groups())
        found[name] = Resources(int(used[1]), stack, stores + loads, int(used[2] or 0))
    return found


def usual(code: Sequence[Instruction], rare: str = CALLS) -> list[Instruction]:
    """Return the code without what hardly ever runs.

    That is what no branch leads to (functions that are called), and blocks with a rare opcode.
    """
    blocks = _blocks(code)
    reached = _dominators(blocks, _before(_following(blocks)))
    return [
        instruction
        for start, block in sorted(blocks.items())
        if start in reached and not any(re.fullmatch(rare, each.opcode) for each in block)
        for instruction in block
    ]


def loops(code: Sequence[Instruction], rare: str = CALLS) -> list[Loop]:
    """Find the natural loops, those that share an entry as one, in the order of their entries.

    Parameters
    ----------
    code
        Of a kernel.
    rare
        Pattern of opcodes: blocks with one of them are left out of their loops. By default those
        that call a function (which divides numbers of 64 bits where 32 do not suffice), and those
        of shuffles by a warp whose threads have parted.
    """
    blocks = _blocks(code)
    following = _following(blocks)
    before = _before(following)
    dominators = _dominators(blocks, before)
    often = {instruction.address for instruction in usual(code, rare)}
    found: dict[int, set[int]] = {}
    for start, after in following.items():
        for header in after:
            if header in dominators.get(start, ()):
                body = found.setdefault(header, {header})
                pending = [start]
                while pending:
                    each = pending.pop()
                    if each not in body:
                        body.add(each)
                        pending += before[each]
    made = [
        Loop(
            header,
            tuple(
                each for start in sorted(body) for each in blocks[start] if each.address in often
            ),
        )
        for header, body in sorted(found.items())
    ]
    return [loop for loop in made if loop.code]


def _blocks(code: Sequence[Instruction]) -> dict[int, list[Instruction]]:
    """Cut the code where branches go and where they stand."""
    starts = {code[0].address} if code else set()
    for instruction, after in zip(code, [*code[1:], None], strict=True):
        if instruction.opcode.split(".")[0] in ("BRA", "BSSY") and instruction.target is not None:
            starts.add(instruction.target)
        ends = instruction.opcode.split(".")[0] in ("BRA", "BRX", "BSYNC", "EXIT", "RET", "JMP")
        if ends and after is not None:
            starts.add(after.address)
    blocks: dict[int, list[Instruction]] = {}
    for instruction in code:
        if instruction.address in starts:
            blocks[instruction.address] = current = []
        current.append(instruction)
    return blocks


def _following(blocks: dict[int, list[Instruction]]) -> dict[int, list[int]]:
    """Return where each block goes on."""
    starts = sorted(blocks)
    behind = dict(pairwise(starts))
    meeting: dict[str, int] = {}  # where the branches of a convergence barrier meet
    following = {}
    for start in starts:
        for instruction in blocks[start]:
            barrier = _BARRIER.search(instruction.operands)
            if instruction.opcode.startswith("BSSY") and barrier and instruction.target:
                meeting[barrier[0]] = instruction.target
        last = blocks[start][-1]
        name, goes = last.opcode.split(".")[0], list[int]()
        if name == "BRA" and last.target is not None:
            goes.append(last.target)
        elif name == "BSYNC":
            barrier = _BARRIER.search(last.operands)
            goes.append(meeting.get(barrier[0] if barrier else "", behind.get(start, start)))
        through = name not in ("BRA", "BRX", "JMP", "BSYNC", "EXIT", "RET") or last.conditional
        if through and start in behind:
            goes.append(behind[start])
        following[start] = [each for each in dict.fromkeys(goes) if each in blocks]
    return following


def _before(following: dict[int, list[int]]) -> dict[int, list[int]]:
    """Return where each block is come from."""
    before: dict[int, list[int]] = {start: [] for start in following}
    for start, after in following.items():
        for each in after:
            before[each].append(start)
    return before


def _dominators(blocks: Collection[int], before: dict[int, list[int]]) -> dict[int, frozenset[int]]:
    """Return for each block that is reached those that every way to it passes."""
    order = sorted(blocks)
    found = {order[0]: frozenset(order[:1])} if order else {}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [found[each] for each in before[block] if each in found]
            if not known:
                continue
            own = frozenset.intersection(*known) | {block}
            if found.get(block) != own:
                found[block], changed = own, True
    return found


def innermost(found: Sequence[Loop]) -> Iterator[Loop]:
    """Yield the loops that contain no other."""
    return (each for each in found if not any(each.contains(other) for other in found))


def hot_loop(found: Sequence[Loop]) -> Loop | None:
    """Choose the loop that does the work.

    That is the shortest of those with the most tensor instructions; without any, of those that
    contain no other loop, the one that loads most bytes of global memory, then of shared memory,
    then stores most, and among equals the longest.
    """
    most = max((each.kinds["tensor"] for each in found), default=0)
    if most:
        return min((e for e in found if e.kinds["tensor"] == most), key=lambda e: len(e.code))

    def bits(loop: Loop, *kinds: str) -> int:
        return sum(each.bits for each in loop.code if each.kind in kinds)

    def importance(loop: Loop) -> tuple[int, ...]:
        loads = bits(loop, "global load", "async copy")
        return loads, bits(loop, "shared load"), bits(loop, "global store"), len(loop.code)

    return max(innermost(found), key=importance, default=None)
