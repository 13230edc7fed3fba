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
# Instructions that take no time of their own.
_FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast after-all partition-id"
  " replica-id opt-barrier domain".split()
)
# Instructions that compute nothing: they move or round what is there.
_MOVES = frozenset(
  "copy transpose convert reshape slice dynamic-slice dynamic-update-slice pad"
  " concatenate broadcast iota reverse".split()
)
# Custom calls that only tell the compiler something.
_NOTES = ("AllocateBuffer", "AssumeGatherIndicesInBound")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
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


@dataclasses.dataclass(frozen=True)
class Operation:
  """Runs of one kind of operation in a step, and what they write.

  Attributes:
    kind: "matmul", a fusion or a library's call with a product of matrices;
      "kernel", another call of a library or of a kernel of our own; "copy",
      "transpose" and "convert", which compute nothing: fusions of such alone
      too; "prefetch", a copy to a nearer memory; "gather", "scatter" and
      "sort", and fusions with them; "fusion", all other operations.
    count: number of runs.
    bytes: size of their results; of one that updates a part of an array, the
      part's.
  """

  kind: str
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

  def of_operation(line, operation, shape):
    kind = operation.removesuffix("-start")
    if kind not in _KINDS:
      return None
    group = _group_size(line, num_devices)
    return (kind, group), _sent(operation, shape, group)

  bodies, entry = _computations(text)
  return [
    Collective(*key, count, num_bytes)
    for key, (count, num_bytes) in _walk(bodies, entry, of_operation)
  ]


def operations(text: str) -> list[Operation]:
  """Counts the operations of one run of a program, and what they write.

  Loops and conditionals count as in `collectives`, whose operations are left
  out here.

  Args:
    text: the program, `compiled.as_text()`.
  """
  bodies, entry = _computations(text)
  lines = {
    match[1]: line
    for body in bodies.values()
    for line in body
    if (match := _INSTRUCTION.match(line))
  }

  def of_operation(line, operation, shape):
    kind = _kind(line, operation, shape, bodies)
    return kind and (kind, _written(line, bodies, lines))

  return [
    Operation(kind, count, num_bytes)
    for kind, (count, num_bytes) in _walk(bodies, entry, of_operation)
  ]


def _walk(bodies, entry, of_operation):
  """Sums what a program's operations cost, with all that they call.

  Args:
    bodies: lines of each computation.
    entry: name of the one that is run.
    of_operation: `(line, operation, shape) -> (key, bytes)`, or None for what
      costs nothing but what it calls.

  Returns:
    Pairs of a key and (count, bytes), sorted.
  """
  seen: dict[str, dict] = {}

  def cost(name):
    if name not in seen:
      seen[name] = _total((1, of_line(line)) for line in bodies.get(name, ()))
    return seen[name]

  def of_line(line):
    match = _OPERATION.match(line)
    if not match:
      return {}
    shape, operation = match.groups()
    own = of_operation(line, operation, shape)
    if own:
      return {own[0]: (1, own[1])}
    costs = [
      cost(name)
      for names in _CALLED.findall(line)
      for name in _NAME.findall(names)
      if name in bodies
    ]
    if operation == "conditional":
      return max(costs, key=lambda c: sum(b for _, b in c.values()), default={})
    times = _trip_count(line, bodies) if operation == "while" else 1
    return _total((times, one) for one in costs)

  return sorted(cost(entry).items())


def _total(costs):
  """Adds up pairs of a number of times and {key: (count, bytes)}."""
  total = defaultdict(lambda: (0, 0.0))
  for times, one in costs:
    for key, (count, num_bytes) in one.items():
      before = total[key]
      total[key] = before[0] + times * count, before[1] + times * num_bytes
  return dict(total)


def _kind(line, operation, shape, bodies):
  """Names the `Operation.kind` of an instruction; None if it does nothing."""
  operation = operation.removesuffix("-start")
  if operation in _FREE or operation in _KINDS or operation.endswith("-done"):
    return None
  if operation in ("while", "conditional", "call", "async", "async-update"):
    return None
  inside = _inside(line, operation, bodies)
  if inside & {"dot", "convolution"}:
    return "matmul"
  if operation == "custom-call":
    target = re.search(r'custom_call_target="([^"]*)"', line)[1]
    if target in _NOTES:
      return None
    return "matmul" if re.search("gemm|matmul", target) else "kernel"
  for kind in ("scatter", "gather", "sort"):
    if kind in inside:
      return kind
  if inside - _MOVES:
    return "fusion"
  if re.search(r"S\([1-9]\d*\)", shape):
    return "prefetch"
  for kind in ("transpose", "convert"):
    if kind in inside:
      return kind
  return "copy"


def _inside(line, operation, bodies):
  """Names of the operations of an instruction, those of its fusion."""
  if operation != "fusion":
    return {operation}
  found = set()
  for inner in _fused(line, bodies):
    match = _OPERATION.match(inner)
    if match and match[2] not in _FREE:
      found |= _inside(inner, match[2], bodies)
  return found


def _fused(line, bodies):
  """Lines of the computation of a fusion."""
  return bodies.get(re.search(r"calls=%?([\w.\-]+)", line)[1], ())


def _written(line, bodies, lines):
  """Bytes that an instruction writes.

  Args:
    line: the instruction.
    bodies: lines of each computation.
    lines: line of each instruction, by name.
  """
  shape, operation = _OPERATION.match(line).groups()
  if operation in ("fusion", "fusion-start"):
    root = [one for one in _fused(line, bodies) if "ROOT " in one]
    return _written(root[0], bodies, lines) if root else _size(shape)
  operands = _DEFINITION.match(line)
  operands = _NAME.findall(operands[4]) if operands else []
  operands = [lines[name] for name in operands if name in lines]
  if operation == "tuple":
    return sum(_written(one, bodies, lines) for one in operands)
  if operation == "bitcast" and operands:
    return _written(operands[0], bodies, lines)
  if operation == "dynamic-update-slice" and len(operands) > 1:
    return _size(_OPERATION.match(operands[1])[1])
  if "__cublas" in line:  # (result, workspace)
    return _size(_elements(shape)[0] if shape[0] == "(" else shape)
  if operation.endswith("-start"):  # ((operands), results, ..) or like those
    whole = [_size(one) for one in _elements(shape)]
    return whole[0 if operation == "copy-start" else 1]
  return _size(shape)


def _elements(shape):
  """Splits the shape of a tuple at its own commas."""
  found, depth = [""], 0
  for character in shape[1:-1]:
    depth += (character in "([{") - (character in ")]}")
    if character == "," and not depth:
      found.append("")
    else:
      found[-1] += character
  return found


def _size(shape):
  """Bytes of the arrays of a shape."""
  return sum(
    _WIDTHS.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
    for kind, dims in _ARRAY.findall(shape)
  )


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
