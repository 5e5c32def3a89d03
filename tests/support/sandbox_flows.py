"""Workflow code that imports, fails and asks for what it may not, in each way that Python knows."""

import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Callable

from tests.support.sandboxes import Desk

SPEC = """
import importlib.util, sys
me = sys.modules[__name__]
found = importlib.util.find_spec(__name__)
return [__file__, __cached__, __name__, __package__, __spec__.origin, __spec__.parent,
    __spec__.has_location, __spec__.loader is __loader__, found is __spec__,
    __loader__.get_source(__name__), __loader__.is_package(__name__),
    list(getattr(sys.modules[__package__], "__path__", [])) if __package__ else None]
"""
"""What a module knows of itself."""


def plain(desk: Desk) -> type:
    return desk.flow("plain_flow", SPEC)


def below_a_package(desk: Desk) -> type:
    desk.write(
        {
            "pkg/__init__": "",
            "pkg/other": "A = 1",
            "pkg/deep/__init__": "from .. import other",
            "pkg/deep/near": "from . import flow\nB = 2",
        }
    )
    imports = "from . import near\nfrom ..other import A\nimport pkg.deep.near as again"
    return desk.flow("pkg/deep/flow", SPEC + "+ [A, near.B, again is near]", imports)


def in_a_namespace(desk: Desk) -> type:
    desk.write({"space/state": "N = []"})
    body = "state.N.append(1)\nreturn [state.N, state.__name__]"
    return desk.flow("space/flow", body, "from space import state")


def from_a_zip_file(desk: Desk) -> type:
    with zipfile.ZipFile(desk.root / "zipped.zip", "w") as archive:
        archive.writestr("in_a_zip.py", "N = 5")
    sys.path.append(str(desk.root / "zipped.zip"))
    return desk.flow(
        "flow_zip",
        "return [in_a_zip.N, type(in_a_zip.__loader__).__name__, in_a_zip.__file__]",
        "import in_a_zip",
    )


def with_resources(desk: Desk) -> type:
    desk.write({"res/__init__": ""})
    (desk.root / "res" / "words.txt").write_text("hello")
    body = """
import importlib.resources
with workflow.unsafe.sandbox_unrestricted():
    return importlib.resources.files("res").joinpath("words.txt").read_text()
"""
    return desk.flow("res/flow", body)


def that_looks_at_its_source(desk: Desk) -> type:
    body = """
import inspect
with workflow.unsafe.sandbox_unrestricted():
    return inspect.getsource(Flow)
"""
    return desk.flow("looks", body)


def that_replaces_itself(desk: Desk) -> type:
    desk.write(
        {
            "new_name": "X = 1",
            "old_name": "import sys, new_name\nsys.modules[__name__] = new_name",
            "odd": """
import sys
class Odd:
    __slots__ = ()
    __name__ = "odd"
    X = 2
sys.modules[__name__] = Odd()
""",
            "classy": """
import sys, types
class Classy(types.ModuleType):
    __hash__ = None
    X = 3
sys.modules[__name__].__class__ = Classy
""",
        }
    )
    body = "import sys\nreturn [sys.modules.get('old_name') is new_name, odd.X, classy.X]"
    return desk.flow("replaces", body, "import old_name, new_name, odd, classy")


def that_has_no_specification(desk: Desk) -> type:
    desk.write({"bare": "X = 1\ndel __spec__", "none": "X = 2\n__spec__ = None"})
    return desk.flow("no_spec", "return [bare.X, none.X]", "import bare, none")


def that_the_process_loads_lazily(desk: Desk) -> type:
    desk.write({"whom": "import sys\nNAMES = 'flow_of_lazy' in sys.modules"})
    spec = importlib.util.find_spec("whom")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sys.modules["whom"] = lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    return desk.flow("flow_of_lazy", "import whom\nreturn whom.NAMES")


def with_more_on_its_path(desk: Desk) -> type:
    more = "import os\n__path__.append(os.path.dirname(__file__) + '_elsewhere')"
    desk.write({"more/__init__": more, "more_elsewhere/beside": "X = 1"})
    body = "import more\nreturn [beside.X, beside.__file__, list(more.__path__)]"
    return desk.flow("more/flow", body, "from more import beside")


def that_imports_in_a_circle(desk: Desk) -> type:
    ring = {"a": "from ring import b\nA = 1", "b": "import ring.a\nB = 2", "__init__": ""}
    desk.write({f"ring/{name}": text for name, text in ring.items()})
    return desk.flow("ring/flow", "return [a.A, b.B, b.ring.a is a]", "from ring import a, b")


def that_imports_late(desk: Desk) -> type:
    desk.write({"late": "N = [0]"})
    body = "import late, sys\nlate.N.append(1)\nreturn [late.N, late is sys.modules['late']]"
    importlib.import_module("late")
    return desk.flow("importing_late", body)


def that_reloads(desk: Desk) -> type:
    desk.write({"anew": "N = [0]"})
    body = "import importlib\nanew.N.append(1)\nimportlib.reload(anew)\nreturn anew.N"
    return desk.flow("reloading", body, "import anew")


def with_modules_passed_through(desk: Desk) -> type:
    desk.write({"through": "N = 1"})
    imports = "with workflow.unsafe.imports_passed_through():\n    import through"
    host = "import sys\nreturn [through.N, type(through.__loader__).__name__]"
    return desk.flow("passing", host, imports)


def that_misses_a_module(desk: Desk) -> type:
    desk.write({"gone": "X = 1"})
    body = "try:\n    import gone\nexcept ImportError as e:\n    return repr(e)\nreturn 'found'"
    flow = desk.flow("missing", body)
    importlib.import_module("gone")
    (desk.root / "gone.py").unlink()
    return flow


def that_fails(desk: Desk) -> type:
    desk.write({"deep": "def fall():\n    raise ValueError('deep down')  # the line of source"})
    return desk.flow("fails", "deep.fall()", "import deep")


def that_fails_for_good(desk: Desk) -> type:
    imports = "from temporalio.exceptions import ApplicationError"
    return desk.flow("fails_for_good", "raise ApplicationError('done')  # here", imports)


def that_fails_to_load(desk: Desk) -> type:
    imports = "if workflow.unsafe.in_sandbox():\n    import not_there_at_all"
    return desk.flow("fails_to_load", "return 1", imports)


REFUSED = {
    "open": "open('/etc/hosts')",
    "random": "import random; return random.random()",
    "time": "import time; return time.time()",
    "now": "import datetime; return str(datetime.datetime.now())",
    "breakpoint": "breakpoint()",
    "input": "input()",
    "listdir": "import os; return os.listdir('.')",
    "socket": "import socket; socket.socket()",
    "thread": "import threading; threading.Thread(target=print).start()",
    "uuid": "import uuid; return str(uuid.uuid4())",
}


def refusing(what: str) -> Callable[[Desk], type]:
    def flow(desk: Desk) -> type:
        return desk.flow(f"refused_{what}", REFUSED[what])

    flow.__name__ = f"refused {what}"
    return flow


FLOWS = [
    plain,
    below_a_package,
    in_a_namespace,
    from_a_zip_file,
    with_resources,
    that_looks_at_its_source,
    that_replaces_itself,
    that_has_no_specification,
    that_the_process_loads_lazily,
    with_more_on_its_path,
    that_imports_in_a_circle,
    that_imports_late,
    that_reloads,
    with_modules_passed_through,
    that_misses_a_module,
    that_fails,
    that_fails_for_good,
    that_fails_to_load,
    *map(refusing, REFUSED),
]
