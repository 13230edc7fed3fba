"""Collective operations of a compiled program, found in its text."""

import dataclasses
import math
import re
from collections import defaultdict

_WIDTHS = {
  "pred": 1,
  "s4": 0.5,
  "u4": 0.5,
  "s8": 1,
  "u8": 1,
  "bf16": 2,
  "f16": 2,
  "s16": 2,
  "u16": 2,
  "f32": 4,
  "s32": 4,
  "u32": 4,
  "f64": 8,
  "s64": 8,
  "u64": 8,
}
_KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
  r"(?:calls|to_apply|true_computation|false_computation|body"
  r"|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_DEFINITION = re.compile(
  r"^\s*(ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(([^)]*)\)"
)
_NAME = re.compile(r"[\w.\-]+")


@dataclasses.dataclass(frozen=True)
class Collective:
  """Runs of one kind of collective over groups of one size, in a step.

  Attributes:
    kind: XLA's name of the collective.
    group: number of devices that take part in one.
    count: number of times that a device takes part.
    bytes: bytes that a device sends, by rings: for an array of n bytes whole,
      `n (g - 1) / g` to gather or to scatter it, twice that to reduce it.
  """

  kind: str
  group: int
  count: int
  bytes: float


def collectives(text: str, num_devices: int) -> list[Collective]:
  """Counts the collectives of one run of a program, and their bytes.

  Loops count as often as they are known to run, else once; a conditional
  counts as its branch that sends most.

  Args:
    text: the program, `compiled.as_text()`.
    num_devices: number of devices of the program.
  """
  bodies, entry = _computations(text)
  seen: dict[str, dict] = {}

  def cost(name):
    if name in seen:
      return seen[name]
    total = defaultdict(lambda: [0, 0.0])
    for line in bodies.get(name, ()):
      for key, (count, num_bytes) in _of_line(line).items():
        total[key][0] += count
        total[key][1] += num_bytes
    seen[name] = dict(total)
    return seen[name]

  def _of_line(line):
    match = _OPERATION.match(line)
    if not match:
      return {}
    shape, operation = match.groups()
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
      group = _group_size(line, num_devices)
      return {(kind, group): (1, _sent(operation, shape, group))}
    called = [
      name
      for names in _CALLED.findall(line)
      for name in _NAME.findall(names)
      if name in bodies
    ]
    costs = [cost(name) for name in called]
    if operation == "conditional":
      return max(costs, key=lambda c: sum(b for _, b in c.values()), default={})
    times = _trip_count(line, bodies) if operation == "while" else 1
    total = defaultdict(lambda: (0, 0.0))
    for one in costs:
      for key, (count, num_bytes) in one.items():
        before = total[key]
        total[key] = (
          before[0] + times * count,
          before[1] + times * num_bytes,
        )
    return total

  return [
    Collective(kind, group, count, num_bytes)
    for (kind, group), (count, num_bytes) in sorted(cost(entry).items())
  ]


def _computations(text):
  """Splits a program into ({name: lines}, name of the entry)."""
  bodies, entry, current = {}, None, None
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      current = bodies.setdefault(match[1], [])
      if line.startswith("ENTRY"):
        entry = match[1]
    elif current is not None:
      current.append(line)
  return bodies, entry


def _trip_count(line, bodies):
  """Number of turns of a loop, from XLA's note or its counter; else 1.

  A counter starts at 0, and its condition is `counter < constant`.
  """
  known = re.search(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)', line)
  if known:
    return int(known[1])
  names = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
  if not names:
    return 1
  condition, body = (
    _definitions(bodies.get(name, ())) for name in names.groups()
  )
  return -(-_bound(condition) // _stride(condition, body))


def _definitions(lines):
  """Parses {name: (operation, operands, line)}, with the root at "ROOT"."""
  found = {}
  for line in lines:
    match = _DEFINITION.match(line)
    if match:
      root, name, operation, operands = match.groups()
      operands = re.sub(r"/\*.*?\*/", "", operands)  # numbers them
      entry = operation, _NAME.findall(operands), line
      found[name] = entry
      if root:
        found["ROOT"] = entry
  return found


def _bound(condition):
  """Constant that a condition's counter is compared with, or 1."""
  _, operands, _ = condition.get("ROOT", ("", [], ""))
  bounds = [_constant(condition, name) for name in operands]
  return next((bound for bound in bounds if bound is not None), 1)


def _stride(condition, body):
  """Number that a turn adds to the counter; 1 where it cannot be seen."""
  _, operands, _ = condition.get("ROOT", ("", [], ""))
  _, outputs, _ = body.get("ROOT", ("", [], ""))
  lines = (condition.get(name, ("", [], ""))[2] for name in operands)
  index = next(
    (int(m[1]) for line in lines if (m := re.search(r"index=(\d+)", line))), 0
  )
  stride, name = 0, outputs[index] if index < len(outputs) else ""
  while body.get(name, ("",))[0] == "add":
    terms = body[name][1]
    steps = [_constant(body, term) for term in terms]
    if all(step is None for step in steps):
      break
    stride += next(step for step in steps if step is not None)
    name = next(t for t, step in zip(terms, steps, strict=True) if step is None)
  return stride or 1


def _constant(definitions, name):
  """Value of an integer constant, or None."""
  operation, _, line = definitions.get(name, ("", [], ""))
  value = re.search(r"constant\((\d+)\)", line)
  return int(value[1]) if operation == "constant" and value else None


def _group_size(line, num_devices):
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
  if iota:
    return int(iota[2])
  named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
  if named:  # a mesh, and the axes of it that a group runs over
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  return len(listed[1].split(",")) if listed else num_devices


def _sent(operation, shape, group):
  """Bytes that a device sends in one collective with the outputs `shape`."""
  sizes = [
    _WIDTHS.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
    for kind, dims in _ARRAY.findall(shape)
  ]
  if not sizes or group < 2:
    return 0.0
  share = (group - 1) / group
  kind = operation.removesuffix("-start")
  if kind == "collective-permute":
    return max(sizes)
  if kind == "all-reduce":
    return 2 * share * sum(sizes)
  if operation.endswith("-start"):  # operands, then results
    half = len(sizes) // 2
    sizes = sizes[:half] if kind == "reduce-scatter" else sizes[half:]
    return share * sum(sizes)
  return share * sum(sizes) * (group if kind == "reduce-scatter" else 1)
