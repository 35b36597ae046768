"""The boundaries of the packages, read from their source: who may import whom, and what nobody may.

`he_inference` is a chain: every module imports earlier ones only, in the order below. A new module
is given its place here, or this fails.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from he_inference import errors
from mpc_training import errors as mpc_errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("he_inference", "mpc_training", "private_models")

ORDER = (
    "errors",
    "addresses",
    "processors",
    "progress",
    "machine_code",
    "parameters",
    "nodes",
    "tensor_file",
    "network",
    "nn",
    "torch_modules",
    "affine",
    "flooding",
    "noise",
    "layouts.packed",
    "layouts.blocks",
    "layouts.batched",
    "layouts.coefficients",
    "expansion",
    "signature",
    "batch_signature",
    "coefficient_signature",
    "signatures",
    "program",
    "checker",
    "coefficient_program",
    "embedding",
    "layouts.batched_search",
    "fusion",
    "cost",
    "wire",
    "coefficient_wire",
    "batch_format",
    "lengths",
    "backend.residues.schedule",
    "batch_program",
    "programs",
    "backend.clear",
    "schedule",
    "search",
    "batch_compiler",
    "packed_compiler",
    "prices",
    "coefficient_compiler",
    "tickets",
    "backend.seal_format",
    "backend.seal",
    "backend.seeds",
    "backend.residues.memory",
    "backend.residues.vectors",
    "backend.residues.packing",
    "backend.residues.transforms",
    "backend.residues.kernels",
    "backend.residues.switching",
    "backend.residues.atomics",
    "backend.residues.row_tasks",
    "backend.residues.weights",
    "backend.residues.key_rows",
    "backend.residues.task_table",
    "backend.residues.packed_schedule",
    "backend.residues.packed_evaluator",
    "backend.residues.encoding",
    "backend.residues.inner_products",
    "backend.residues.evaluator",
    "backend.residues.torch_evaluator",
    "backend.residues.torch_transform",
    "precomputed",
    "backend.residues.sampling",
    "backend.residues.sanitiser",
    "batch_wire",
    "encryption_worker",
    "packed_cipher",
    "batch_cipher",
    "coefficient_cipher",
    "client",
    "packed_engine",
    "batch_engine",
    "coefficient_engine",
    "server",
    "planning",
    "calibration",
    "compiler",
    "plan_table",
    "plan_picture",
    "serving.logs",
    "serving.settings",
    "serving.key_store",
    "serving.listener",
    "serving.worker",
    "serving.refusals",
    "serving.workers",
    "serving.journal",
    "serving.uploads",
    "serving.application",
    "service",
    "remote",
    "terminal",
    "user_files",
    "verbs.options",
    "verbs.answers",
    "verbs.networks",
    "verbs.messages",
    "verbs.serve",
    "verbs.query",
    "verbs.demo",
    "__main__",
)
PRIVATE_ORDER = (
    "errors",
    "noise",
    "accounting",
    "releases",
    "features",
    "preparation",
    "quadratic",
    "arithmetic",
    "torch_arithmetic",
    "devices",
    "solvers",
    "solvers.task",
    "solvers.gradient",
    "solvers.least_squares",
    "solvers.newton",
    "solvers.sgd",
    "choices",
    "statement",
    "head",
    "training",
    "classifier",
    "pate.renyi",
    "pate.sensitivity",
    "pate.voting",
    "pate.teachers",
    "pate.ensemble",
    "questions",
    "audit",
    "audit.findings",
    "audit.mechanism",
    "audit.subjects",
    "audit.canaries",
    "audit.membership",
    "audit.attributes",
    "audit.inversion",
    "audit.stealing",
    "audit.pictures",
    "audit.report",
    "audit.suite",
    "backbones",
    "backbones.extraction",
    "backbones.efficientnet",
    "backbones.minilm",
    "backbones.modules",
    "backbones.pixels",
    "backbones.orientations",
    "backbones.catalogue",
    "labelled_folders",
    "feature_files",
    "picture_files",
    "text_files",
    "inputs",
    "hybrid.feature_map",
    "hybrid.public_part",
    "hybrid.bundle",
    "hybrid.building",
    "hybrid.server",
    "hybrid.client",
    "hybrid",
    "hybrid.trial",
    "hybrid.labelled_inputs",
    "play.drawing",
    "play.uploads",
    "play.gate",
    "play.application",
    "play.serving",
    "verbs.options",
    "verbs.heads",
    "verbs.audit",
    "verbs.hybrid",
    "verbs.play",
    "__main__",
)
PRIVATE_FOLDERS = {"pate", "play", "verbs"}
SECRET_HOLDERS = {
    "client", "packed_cipher", "batch_cipher", "coefficient_cipher", "encryption_worker",
}  # fmt: skip
"""The client, its half for every layout, and the process that encrypts for it; nobody else."""
WHEN_NEEDED = {
    ("he_inference.client", "he_inference.batch_cipher"),
    ("he_inference.server", "he_inference.batch_engine"),
    ("he_inference.server", "he_inference.packed_engine"),
    ("he_inference.server", "he_inference.coefficient_engine"),
    ("he_inference.compiler", "he_inference.calibration"),
    ("he_inference.batch_engine", "he_inference.backend.residues.torch_evaluator"),
    ("he_inference.packed_engine", "he_inference.backend.residues.packed_evaluator"),
    ("he_inference.packed_engine", "he_inference.backend.seal"),
    ("private_models.backbones.catalogue", "private_models.backbones.efficientnet"),
    ("private_models.backbones.catalogue", "private_models.backbones.minilm"),
    ("private_models.devices", "private_models.torch_arithmetic"),
    ("private_models.devices", "torch"),
    ("private_models.head", "torch"),
    ("he_inference.precomputed", "he_inference.backend.residues.torch_transform"),
}
MPC_ORDER = (
    "errors",
    "crypten_repairs",
    "randomness",
    "ring",
    "fixed_point",
    "tensor",
    "arithmetic",
    "clear",
    "network",
    "torch_modules",
    "layers",
    "softmax",
    "training",
    "record_files",
    "holdings",
    "schema",
    "batches",
    "model_file",
    "certificates",
    "wire",
    "link",
    "transport",
    "connecting",
    "agreement",
    "alignment",
    "party",
    "sharing",
    "truncation",
    "booleans",
    "replicated",
    "run",
    "feed",
    "checkpoint",
    "session",
    "serving",
    "settings",
    "local_parties",
    "clear_run",
    "step_progress",
    "__main__",
)
"""Of `mpc_training`: what is trained, on what, over which wire, by whom."""
ORDERS = {"he_inference": ORDER, "mpc_training": MPC_ORDER}
FOLDERS = {"backend", "backend.residues", "layouts", "serving", "verbs"}


@cache
def modules(package: str) -> dict[str, Path]:
    """Dotted name, and file, of every module."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


EVERY = {name: path for package in PACKAGES for name, path in modules(package).items()}
LIBRARY = {
    name: path
    for name, path in EVERY.items()
    if not name.endswith("__main__") and ".verbs" not in name
}
DOORS = tuple(f"private_models.{name}" for name in ("hybrid", "play", "verbs", "__main__"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_by(node: ast.AST, name: str) -> Iterator[str]:
    """The modules that one statement imports, as far as they are ours down to the file."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{name} imports relatively: write the whole name"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in EVERY else str(node.module)


def imports(name: str, *, types_too: bool = True) -> set[str]:
    found = set()
    for node in ast.walk(tree(EVERY[name])):
        if types_too or node not in typing_only(name):
            found |= set(imported_by(node, name))
    return found - {name}


@cache
def typing_only(name: str) -> frozenset[ast.AST]:
    """Everything under `if TYPE_CHECKING:`."""
    return frozenset(
        inner
        for node in ast.walk(tree(EVERY[name]))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    )


def tops(name: str) -> set[str]:
    """Top-level packages that a module imports."""
    return {module.split(".")[0] for module in imports(name)}


# ---------------------------------------------------------------------------- one way


@pytest.mark.parametrize("package", ORDERS)
def test_every_module_has_its_place(package: str) -> None:
    order = ORDERS[package]
    found = {name.removeprefix(f"{package}.") for name in modules(package)}
    folders = FOLDERS if package == "he_inference" else set()
    assert found - {package} - folders == set(order)
    assert len(set(order)) == len(order)


@pytest.mark.parametrize("package", ORDERS)
def test_imports_point_one_way(package: str) -> None:
    """Earlier modules only; so there is no cycle either."""
    wrong = []
    order = ORDERS[package]
    for place, short in enumerate(order):
        earlier = {f"{package}.{other}" for other in order[:place]}
        ours = {m for m in imports(f"{package}.{short}") if m.startswith(package)}
        if short == "__main__" or short.startswith("verbs."):
            ours -= {package}  # the command line is a user of the public names
        wrong += [f"{short} imports {module}" for module in sorted(ours - earlier)]
    assert not wrong


def test_private_models_is_a_chain_too() -> None:
    """Noise is next to nothing, so that whoever audits it need read nothing else."""
    found = {name.removeprefix("private_models.") for name in modules("private_models")}
    assert found - {"private_models"} - PRIVATE_FOLDERS == set(PRIVATE_ORDER)
    wrong = []
    for place, short in enumerate(PRIVATE_ORDER):
        earlier = {f"private_models.{other}" for other in PRIVATE_ORDER[:place]}
        ours = {m for m in imports(f"private_models.{short}") if m.startswith("private_models")}
        wrong += [f"{short} imports {module}" for module in sorted(ours - earlier)]
    # `training` reads the table of `choices` as a module.
    assert not [line for line in wrong if line != "training imports private_models"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_cycles(package: str) -> None:
    left = {
        name: {m for m in imports(name) if m in EVERY and m != package}
        for name in modules(package)
        if name != package
    }
    while left:
        ready = [name for name, needs in left.items() if not needs & left.keys()]
        assert ready, f"a cycle among {sorted(left)}"
        for name in ready:
            del left[name]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_no_import_hides_in_a_function(name: str) -> None:
    """It would dodge the order. The package's own `__getattr__` loads by name: its task; and what
    some do without: layouts load their own (SEAL on servers, numba, torch for a GPU), and prices
    are measured with a client, of which compiling knows nothing else."""
    for node in ast.walk(tree(LIBRARY[name])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            hidden = [n for n in found if (name, *imported_by(n, name)) not in WHEN_NEEDED]
            assert not hidden, f"{name} line {hidden[0].lineno}"
            if name not in PACKAGES:
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                assert not names & {"import_module", "__import__"}


# ---------------------------------------------------------------------------- dangers


def test_the_server_never_meets_the_client() -> None:
    """Not even through what it imports: nothing on that side can hold a secret key."""
    for side in ("server", "service"):
        seen, open_ends = set(), {f"he_inference.{side}"}
        while open_ends:
            name = open_ends.pop()
            seen.add(name)
            open_ends |= {m for m in imports(name) if m in EVERY} - seen
        assert not {f"he_inference.{holder}" for holder in SECRET_HOLDERS} & seen
    assert "he_inference.server" not in imports("he_inference.client")


def test_the_secret_key_is_held_by_clients_alone() -> None:
    holders = {
        name.removeprefix("he_inference.")
        for name, path in modules("he_inference").items()
        if any(isinstance(n, ast.Name) and n.id == "KeyHolder" for n in ast.walk(tree(path)))
    }
    assert "client" in holders and holders <= SECRET_HOLDERS


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("tenseal", {"he_inference.backend.seal"}),
        (
            "safetensors",
            {
                "he_inference.network",
                "he_inference.program",
                "he_inference.tensor_file",
                "private_models.head",
                "private_models.backbones.extraction",
                "private_models.hybrid.feature_map",
                "mpc_training.model_file",
            },
        ),
        (
            "ssl",
            {
                "mpc_training.link",
                "mpc_training.transport",
                "mpc_training.connecting",
                "he_inference.service",
                "he_inference.remote",
            },
        ),
        ("crypten", {"mpc_training.crypten_repairs"}),
        ("tomllib", {"mpc_training.settings"}),
        (
            "cryptography",
            {
                "mpc_training.randomness",
                "mpc_training.certificates",
                "mpc_training.checkpoint",
                "mpc_training.alignment",
                "he_inference.backend.residues.sampling",
                "private_models.noise",
            },
        ),
        ("httpx", {"he_inference.remote"}),
        ("dp_accounting", {"private_models.accounting"}),
    ],
)
def test_one_importer(library: str, allowed: set[str]) -> None:
    assert {name for name in LIBRARY if library in tops(name)} <= allowed


@pytest.mark.parametrize("name", sorted(modules("private_models")))
def test_randomness_is_drawn_in_one_place(name: str) -> None:
    """No generator that can be predicted, anywhere; the operating system's in `noise` alone."""
    if name != "private_models.noise":
        assert not tops(name) & {"random"}
        text = ast.unparse(tree(EVERY[name]))
        for source in (
            "urandom",
            "np.random",
            "numpy.random",
            "default_rng",
            "torch.rand",
            "normal_(",
        ):
            assert source not in text, source


def test_torch_is_for_training_translating_and_accelerators() -> None:
    users = {name for name in modules("he_inference") if "torch" in tops(name)}
    allowed = {
        "nn", "torch_modules", "backend.residues.torch_evaluator",
        "backend.residues.torch_transform", "verbs.networks",
    }  # fmt: skip
    assert users <= {f"he_inference.{name}" for name in allowed}


def test_random_numbers_for_secrets_come_from_one_module() -> None:
    """The operating system is asked by `randomness`; elsewhere for names of files and nonces that
    are no ring elements. numpy's generators draw what is public: batches, first weights."""
    drawing = {
        name.removeprefix("mpc_training.")
        for name, path in modules("mpc_training").items()
        if "urandom" in path.read_text(encoding="utf-8")
    }
    assert drawing == {"randomness", "checkpoint"}
    public = {
        name.removeprefix("mpc_training.")
        for name, path in modules("mpc_training").items()
        if "np.random" in path.read_text(encoding="utf-8")
    }
    assert public <= {"batches", "network", "session", "local_parties", "clear_run"}


def test_shares_are_opened_in_one_module() -> None:
    """Who adds up both own parts and a received one opens a value: `sharing.reveal` among parties,
    and in `serving` the client, who puts together the answer to its own query."""
    openers = {
        name.removeprefix("mpc_training.")
        for name, path in modules("mpc_training").items()
        if "decode(" in path.read_text(encoding="utf-8")
    }
    assert openers <= {
        "sharing", "serving", "fixed_point", "wire", "settings", "agreement", "record_files",
    }  # fmt: skip


def test_what_moves_shares_knows_no_torch() -> None:
    users = {name for name in modules("mpc_training") if "torch" in tops(name)}
    allowed = {"torch_modules", "crypten_repairs", "__main__"}
    assert users <= {f"mpc_training.{name}" for name in allowed}


def test_crypten_stays_inside_mpc_training() -> None:
    assert all(name.startswith("mpc_training") for name in EVERY if "crypten" in tops(name))


def test_packages_know_each_other_by_one_door() -> None:
    """Between them travel arrays, modules and bytes; the hybrid alone queries under encryption, and
    command lines end alike."""
    for name in EVERY:
        own = name.split(".")[0]
        shows = name.endswith(("__main__", ".step_progress")) or ".verbs." in name
        known = imports(name) - ({"he_inference.terminal"} if shows else set())
        others = {module.split(".")[0] for module in known}
        others &= set(PACKAGES) - {own}
        if name.startswith(DOORS):
            others -= {"he_inference"}
        assert not others, f"{name} imports {others}"


def test_workloads_are_for_command_lines_and_tests() -> None:
    assert not [name for name in LIBRARY if tops(name) & {"workloads", "benchmarks", "tests"}]


DANGERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_nothing_read_is_executed(name: str) -> None:
    assert not tops(name) & DANGERS
    for node in ast.walk(tree(EVERY[name])):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__")
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert options.get("allow_pickle", "False") == "False"
            if called.endswith("torch.load"):
                assert options.get("weights_only") == "True"


# ---------------------------------------------------------------------------- manners


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_no_assert_and_no_print(name: str) -> None:
    for node in ast.walk(tree(LIBRARY[name])):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise instead"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}"


def test_names_say_what_is_in_a_file() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [name for name in EVERY if vague & set(name.split("."))]


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_module_says_what_it_is(name: str) -> None:
    if EVERY[name].stat().st_size:
        assert ast.get_docstring(tree(EVERY[name]))


# ---------------------------------------------------------------------------- what gets loaded


def loaded(statement: str) -> set[str]:
    """Modules in a fresh interpreter after one statement."""
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_cheap(package: str) -> None:
    assert not loaded(f"import {package}") & {"torch", "tenseal", "crypten", "scipy", "numpy"}


@pytest.mark.parametrize("name", ["Client", "Server", "load_signature", "compile", "HEError"])
def test_queries_need_no_torch(name: str) -> None:
    found = loaded(f"from he_inference import {name}")
    assert not found & {"torch", "numba", "cryptography"}
    assert ("tenseal" in found) is (name == "Client")
    assert ("he_inference.client" in found) is (name == "Client")
    assert ("he_inference.server" in found) is (name == "Server")


def test_training_needs_no_seal() -> None:
    assert "tenseal" not in loaded("from he_inference import from_torch, nn")


def test_all_that_is_offered_is_there() -> None:
    """Every public name, found from a fresh start in either order, is the thing of that name."""
    names = loaded_names()
    assert {"Client", "Server", "compile", "from_torch", "load_network", "nn"} <= set(names)
    for order in (names, names[::-1]):
        lines = "; ".join(f"assert he.{name} is he.{name}" for name in order)
        kinds = "assert callable(he.from_torch) and callable(he.compile)"
        loaded(f"import he_inference as he; {lines}; {kinds}")
    with pytest.raises(subprocess.CalledProcessError):
        loaded("import he_inference; he_inference.nothing")


def loaded_names() -> list[str]:
    code = "import he_inference, sys; sys.stdout.write(' '.join(he_inference.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split()


# ---------------------------------------------------------------------------- errors


def drawn_tree(module: ModuleType) -> dict[str, str]:
    """Child to parent, from the drawing at the top of errors.py; four columns a generation."""
    parents, line_of_descent = {}, []
    for line in (module.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if not line.startswith("    ") or not name:
            continue
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
        del line_of_descent[depth:]
        if line_of_descent:
            parents[name] = line_of_descent[-1]
        line_of_descent.append(name)
    return parents


ERRORS = {"he_inference": (errors, "HEError"), "mpc_training": (mpc_errors, "MPCError")}


@pytest.mark.parametrize("package", ERRORS)
def test_the_drawing_is_the_tree(package: str) -> None:
    module, root = ERRORS[package]
    classes = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert all(len(kind.__bases__) == 1 and kind.__doc__ for kind in classes.values())
    parents = {name: kind.__base__.__name__ for name, kind in classes.items()}
    assert parents.pop(root) == "Exception"
    assert drawn_tree(module) == parents


INTERNAL = {"MisfitError", "SmallPrimeError"}
"""Caught where they are raised, and never seen by a caller."""


@pytest.mark.parametrize("package", ERRORS)
def test_whatever_is_raised_on_purpose_is_in_the_tree(package: str) -> None:
    """Exceptions defined elsewhere are private, or known to be internal, or grow from the tree."""
    module, _ = ERRORS[package]
    known = set(vars(module)) | INTERNAL
    for name, path in modules(package).items():
        if name == f"{package}.errors":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base) for base in node.bases}
                raised = {b for b in bases if b in known or b.endswith(("Error", "Exception"))}
                assert raised <= set(vars(module)) or node.name in INTERNAL, f"{name}.{node.name}"


@pytest.mark.parametrize(
    "name",
    [m for package in ERRORS for m in modules(package) if not m.endswith("__main__")],
)
def test_only_errors_of_the_tree_are_raised_by_name(name: str) -> None:
    """Built-in exceptions are raised where a caller of this package never sees them: by `nn`, which
    follows torch's manners, by `nodes` and `program` for their own callers inside, and for names
    that a module does not have."""
    builtin = {"ValueError", "TypeError", "RuntimeError", "KeyError", "Exception", "OSError"}
    inside = {
        "he_inference.nn", "he_inference.nodes", "he_inference.signature", "he_inference.affine",
        "he_inference.batch_signature", "he_inference.batch_program",
        "he_inference.coefficient_signature", "he_inference.coefficient_program",
        "he_inference.prices", "mpc_training.tensor", "mpc_training.torch_modules",
    }  # fmt: skip
    raised = {
        ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        for node in ast.walk(tree(EVERY[name]))
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    assert name in inside or not raised & builtin
