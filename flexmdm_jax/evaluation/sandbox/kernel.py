"""Calls of the Linux kernel that shut a process in, by ctypes.

Imports the standard library alone: the supervisor runs without our package.
Numbers and structures are those of the kernel's own headers.
"""

import ctypes
import os
import platform
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = platform.machine()
# Token of the machine in seccomp's data (its ELF number and two flags), and
# the column of `_SYSCALLS`.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Namespaces, of which the mounts' is made apart: see `Root`.
USER, PROCESSES, NETWORK = 0x10000000, 0x20000000, 0x40000000
IPC, NAMES, MOUNTS = 0x08000000, 0x04000000, 0x00020000

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_AT_RECURSIVE = 0x8000
_MOUNT_SETATTR = 442


def _check(result: int, what: str) -> int:
  if result < 0:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")
  return result


def _syscall(what: str, number: int, *args) -> int:
  values = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
  return _check(_libc.syscall(ctypes.c_long(number), *values), what)


def unshare(flags: int) -> None:
  """Moves this process to new namespaces, or its children for `PROCESSES`.

  Raises:
    OSError: where the kernel or the container refuses.
  """
  _check(_libc.unshare(flags), "unshare")


def prctl(option: int, *args: int) -> int:
  """Sets an attribute of this process.

  Raises:
    OSError: where the kernel refuses.
  """
  values = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
  return _check(_libc.prctl(option, *values), "prctl")


def die_with_parent() -> None:
  """Has the kernel kill this process when the one that forked it ends."""
  prctl(1, 9)


def may_look_into_others() -> bool:
  """Says whether this process may read the state of other users' processes."""
  with open("/proc/self/status") as file:
    (mask,) = (line.split()[1] for line in file if line.startswith("CapEff"))
  return bool(int(mask, 16) >> 19 & 1)


def no_new_privileges() -> None:
  """Gives up set-uid files and file capabilities, for good."""
  prctl(38, 1)


def drop_capabilities() -> None:
  """Gives up every capability, also those that root's exec would bring."""
  for capability in range(64):
    try:
      prctl(24, capability)
    except OSError:
      break  # EINVAL: the last was before; EPERM: there is none to drop
  header = struct.pack("=Ii", 0x20080522, 0)
  _check(_libc.capset(header, bytes(24)), "capset")


def execve(path, arguments: list[str], environment: dict[str, str]) -> None:
  """Replaces this process; `path` is a ctypes buffer, which seccomp knows.

  Raises:
    OSError: where it cannot be run.
  """
  pairs = [f"{k}={v}" for k, v in environment.items()]
  arrays = []
  for values in (arguments, pairs):
    values = [os.fsencode(v) for v in values]
    arrays.append((ctypes.c_char_p * (len(values) + 1))(*values, None))
  _check(_libc.execve(path, *arrays), "execve")


# Mounts --------------------------------------------------------------------


def _mount(source, target, kind=None, flags=0, data=None):
  names = [None if x is None else os.fsencode(x) for x in (source, target)]
  kind, data = (None if x is None else x.encode() for x in (kind, data))
  done = _libc.mount(*names, kind, ctypes.c_ulong(flags), data)
  _check(done, f"mount {target}")


def _restrict(target: str, flags: int, recursive: bool) -> None:
  """Adds flags to a mount; bits as `mount` has them, which are the same."""
  attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
  try:
    _syscall(
      f"mount_setattr {target}",
      _MOUNT_SETATTR,
      -100,
      ctypes.c_char_p(os.fsencode(target)),
      _AT_RECURSIVE if recursive else 0,
      ctypes.c_char_p(attributes),
      len(attributes),
    )
  except OSError:  # a kernel before 5.12: one mount, and flags it already has
    flags |= os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
    _mount(None, target, None, _REMOUNT | _BIND | flags)


def enter_root(
  place: str,
  readable: list[str],
  devices: list[str],
  hidden: list[str],
  scratch: str,
  scratch_bytes: int,
) -> None:
  """Makes a root of read-only folders and a scratch folder, and enters it.

  Everything else of the file system is gone, `/proc` and `/sys` too.

  Args:
    place: an empty folder to build it on.
    readable: folders and files, real paths, under the names that they have.
    devices: files of `/dev`.
    hidden: files among the readable to replace by an empty device.
    scratch: path in the new root of a writable folder that is in memory, from
      which no machine code can be mapped.
    scratch_bytes: its size.

  Raises:
    OSError: where the kernel or the container refuses.
  """
  unshare(MOUNTS)
  _mount(None, "/", None, _REC | _PRIVATE)
  _mount("none", place, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=1m,mode=755")
  os.chmod(place, 0o755)
  for path in (*readable, *devices):
    target = place + path
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.isdir(path):
      os.makedirs(target, 0o755, exist_ok=True)
    elif not os.path.exists(target):
      os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(path, target, None, _BIND | _REC)
    device = path in devices
    flags = _NOSUID | (_NOEXEC if device else _RDONLY | _NODEV)
    _restrict(target, flags, recursive=not device)
  for path in hidden:
    _mount("/dev/null", place + path, None, _BIND)
  os.makedirs(place + scratch, 0o755, exist_ok=True)
  _mount(
    "none",
    place + scratch,
    "tmpfs",
    _NOSUID | _NODEV | _NOEXEC,
    f"size={scratch_bytes},nr_inodes=4096,mode=777",
  )
  os.chdir(place)
  _check(_libc.pivot_root(b".", b"."), "pivot_root")
  _check(_libc.umount2(b".", 2), "umount2")  # the old root, which lies on top
  os.chdir("/")
  _restrict("/", _RDONLY | _NOSUID | _NODEV, recursive=False)


# Landlock ------------------------------------------------------------------

_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL


def landlock_version() -> int:
  """Returns the version of Landlock, 0 where there is none."""
  try:
    return _syscall("landlock", 444, None, 0, 1)
  except OSError:
    return 0


def landlock(readable: list[str], writable: list[str]) -> None:
  """Leaves this process these paths; no TCP, no signals to others.

  Sockets and signals are held from versions 4 and 6 on.

  Raises:
    OSError: where the kernel refuses.
  """
  version = landlock_version()
  bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
  every = (1 << bits) - 1
  sizes = 8 if version < 4 else 16 if version < 6 else 24
  attributes = struct.pack("=QQQ", every, 3, 3)[:sizes]
  rules = _syscall(
    "landlock", 444, ctypes.c_char_p(attributes), len(attributes), 0
  )
  for path in (*readable, *writable):
    allowed = every if path in writable else _EXECUTE | _READ | _READ_DIR
    if not os.path.isdir(path):
      allowed &= _OF_FILES
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", allowed, fd)
    _syscall("landlock", 445, rules, 1, ctypes.c_char_p(rule), 0)
    os.close(fd)
  _syscall("landlock", 446, rules, 0)
  os.close(rules)


# Seccomp -------------------------------------------------------------------

# Numbers on x86-64 and on aarch64; None where there is no such call.
_SYSCALLS = {
  # other programs, other processes
  "fork": (57, None),
  "vfork": (58, None),
  "execveat": (322, 281),
  "tkill": (200, 130),
  "pidfd_open": (434, 434),
  "pidfd_send_signal": (424, 424),
  "pidfd_getfd": (438, 438),
  "ptrace": (101, 117),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "process_madvise": (440, 440),
  "kcmp": (312, 272),
  "setpriority": (141, 140),
  "sched_setparam": (142, 118),
  "sched_setscheduler": (144, 119),
  "sched_setattr": (314, 274),
  "ioprio_set": (251, 30),
  "migrate_pages": (256, 238),
  "move_pages": (279, 239),
  # the network, and memory shared with others
  "socket": (41, 198),
  "shmget": (29, 194),
  "msgget": (68, 186),
  "semget": (64, 190),
  "mq_open": (240, 180),
  "memfd_create": (319, 279),
  "memfd_secret": (447, 447),
  # mounts and namespaces
  "mount": (165, 40),
  "umount2": (166, 39),
  "pivot_root": (155, 41),
  "chroot": (161, 51),
  "open_tree": (428, 428),
  "move_mount": (429, 429),
  "fsopen": (430, 430),
  "fsconfig": (431, 431),
  "fsmount": (432, 432),
  "fspick": (433, 433),
  "mount_setattr": (442, 442),
  "unshare": (272, 97),
  "setns": (308, 268),
  "open_by_handle_at": (304, 265),
  "name_to_handle_at": (303, 264),
  "quotactl": (179, 60),
  "fanotify_init": (300, 262),
  # parts of the kernel with a history of holes
  "bpf": (321, 280),
  "perf_event_open": (298, 241),
  "userfaultfd": (323, 282),
  "io_uring_setup": (425, 425),
  "io_uring_enter": (426, 426),
  "io_uring_register": (427, 427),
  "add_key": (248, 217),
  "request_key": (249, 218),
  "keyctl": (250, 219),
  "modify_ldt": (154, None),
  "personality": (135, 92),
  "seccomp": (317, 277),
  "syslog": (103, 116),
  # the machine
  "kexec_load": (246, 104),
  "kexec_file_load": (320, 294),
  "init_module": (175, 105),
  "finit_module": (313, 273),
  "delete_module": (176, 106),
  "reboot": (169, 142),
  "swapon": (167, 224),
  "swapoff": (168, 225),
  "acct": (163, 89),
  "vhangup": (153, 58),
  "settimeofday": (164, 170),
  "clock_settime": (227, 112),
  "adjtimex": (159, 171),
  "clock_adjtime": (305, 266),
  "sethostname": (170, 161),
  "setdomainname": (171, 162),
  "iopl": (172, None),
  "ioperm": (173, None),
}
# What Landlock does not hold: owners, modes and times of files, and, in its
# first versions, truncation. Read-only mounts do.
_ON_FILES = {
  "chmod": (90, None),
  "fchmod": (91, 52),
  "fchmodat": (268, 53),
  "fchmodat2": (452, 452),
  "chown": (92, None),
  "fchown": (93, 55),
  "lchown": (94, None),
  "fchownat": (260, 54),
  "utime": (132, None),
  "utimes": (235, None),
  "futimesat": (261, None),
  "utimensat": (280, 88),
  "setxattr": (188, 5),
  "lsetxattr": (189, 6),
  "fsetxattr": (190, 7),
  "removexattr": (197, 14),
  "lremovexattr": (198, 15),
  "fremovexattr": (199, 16),
  "setxattrat": (463, 463),
  "removexattrat": (466, 466),
  "file_setattr": (469, 469),
  "truncate": (76, 45),
}
_CLONE, _CLONE3, _EXECVE = (56, 220), (435, 435), (59, 221)
# The first argument must be the own process: signals, for one.
_OF_SELF = [(62, 129), (234, 131), (129, 138), (297, 240)]
# The same, or 0, which stands for it.
_OF_SELF_OR_0 = [(302, 261), (203, 122)]  # prlimit64, sched_setaffinity
_NAMESPACES = 0x7E020000  # all flags of clone that make one
_THREAD = 0x10000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 6
_ALLOW, _DENY, _ABSENT, _KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


def seccomp_known() -> bool:
  """Says whether the filter knows the numbers of this machine's calls."""
  return _MACHINE in _ARCHITECTURES and ctypes.sizeof(ctypes.c_void_p) == 8


def seccomp(path, files: bool) -> None:
  """Takes from this process what a program has no need of, for good.

  Left out are new processes, programs other than the one at `path`, sockets,
  signals to others, mounts, namespaces, and what changes the machine. A call
  that is left out fails with EPERM.

  Args:
    path: a ctypes buffer. `execve` is allowed from its address alone, where
      the next program, of another layout, has no path.
    files: whether to take changes of files' modes, owners and times as well.

  Raises:
    OSError: where the kernel refuses.
  """
  token, column = _ARCHITECTURES[_MACHINE]
  code = []

  def add(operation, value=0, then=0, otherwise=0):
    code.append(
      struct.pack("=HBBI", operation, then, otherwise, value & 0xFFFFFFFF)
    )

  def argument_is(values, whole=False):
    """Lets the call pass by its first argument; of a pid, the low half."""
    for value in values:
      add(_LOAD, 16)
      add(_JUMP_EQUAL, value, 0, 3 if whole else 1)
      if whole:
        add(_LOAD, 20)
        add(_JUMP_EQUAL, value >> 32, 0, 1)
      add(_RETURN, _ALLOW)
    add(_RETURN, _DENY)

  def case(numbers, body):
    """Runs instructions that end in a return for one system call."""
    if numbers[column] is None:
      return
    start = len(code)
    body()
    length = len(code) - start
    test = struct.pack("=HBBI", _JUMP_EQUAL, 0, length, numbers[column])
    code.insert(start, test)

  def clone():
    add(_LOAD, 16)
    add(_AND, _NAMESPACES | _THREAD)
    add(_JUMP_EQUAL, _THREAD, 0, 1)
    add(_RETURN, _ALLOW)
    add(_RETURN, _DENY)

  me, address = os.getpid(), ctypes.addressof(path)
  add(_LOAD, 4)
  add(_JUMP_EQUAL, token, 1, 0)
  add(_RETURN, _KILL)
  add(_LOAD, 0)
  if column == 0:  # the second table of x86-64, x32
    add(_JUMP_AT_LEAST, 0x40000000, 0, 1)
    add(_RETURN, _DENY)
  case(_CLONE, clone)
  # It reads its flags from memory, out of sight: without it glibc uses clone.
  case(_CLONE3, lambda: add(_RETURN, _ABSENT))
  case(_EXECVE, lambda: argument_is([address], whole=True))
  for numbers in _OF_SELF:
    case(numbers, lambda: argument_is([me]))
  for numbers in _OF_SELF_OR_0:
    case(numbers, lambda: argument_is([0, me]))
  denied = _SYSCALLS | (_ON_FILES if files else {})
  for numbers in denied.values():
    case(numbers, lambda: add(_RETURN, _DENY))
  add(_RETURN, _ALLOW)

  text = ctypes.create_string_buffer(b"".join(code))
  program = ctypes.create_string_buffer(
    struct.pack("=H6xQ", len(code), ctypes.addressof(text))
  )
  prctl(22, 2, ctypes.addressof(program))
