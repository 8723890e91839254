"""The shape of the house, held by tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.radii import unrounded
from tests.architecture.sizes import ROOT, too_large

HEAVY = ("torch", "ray", "scipy", "numpy", "onnx", "onnxruntime")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_the_import_law() -> None:
    found = subprocess.run(["lint-imports"], capture_output=True, text=True, cwd=ROOT, env=_with_venv(), check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("module", ["api.app", "api.cli.main", "api.sdk", "assay"])
def test_the_api_loads_nothing_heavy(module: str) -> None:
    assert fresh(f"import {module}, sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "spec",
        "specs.smoothing",
        "looks",
        "question",
        "statement",
        "old_rows",
        "certificate",
        "following",
        "findings",
        "verdict",
        "errors",
        "norms",
        "rounding",
        "run",
        "facts",
        "report",
        "exit_codes",
        "mcnemar",
        "gate_rules",
        "comparison",
        "gates",
        "regions",
    ],
)
def test_the_light_half_is_light(module: str) -> None:
    assert fresh(f"import certify.{module}, sys; print(sorted({{*{HEAVY!r}, 'sqlalchemy', 'fastapi'}} & set(sys.modules)))") == "[]"


def test_files_and_functions_stay_small() -> None:
    assert list(too_large()) == []


def test_the_wheel_holds_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for room in ("certify", "storage", "workers", "api") for path in modules(room)}
    assert found - {"api.sdk"} == listed - {"assay"}  # which the wheel calls assay


def test_every_room_has_a_page() -> None:
    for room in ("certify", "workers", "api", "storage", "deploy", "tests"):
        assert len((ROOT / room / "README.md").read_text()) > 300


FORBIDDEN = re.compile(r"(?<![\w.])(open\(|print\(|os\.environ|time\.\w|torch\.manual_seed|np\.random\.seed|random\.seed)|\.cuda\(")


@pytest.mark.parametrize("path", modules("certify"), ids=lambda p: str(p.relative_to(ROOT)))
def test_certify_is_arithmetic(path: Path) -> None:
    assert FORBIDDEN.findall(path.read_text()) == []


def tensor_parameters(text: str) -> Iterator[tuple[str, bool]]:
    """Each Tensor parameter, and whether a comment in the signature gives its shape: on its own line, by name, or as the only one."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, [node.args.vararg]))
            tensors = [a for a in arguments if a.annotation is not None and ast.unparse(a.annotation) in ("Tensor", "torch.Tensor")]
            comments = " ".join(line.partition("#")[2] for line in lines[node.lineno - 1 : max(node.lineno, node.body[0].lineno - 1)])
            for one in tensors:
                alone = sum(other.lineno == one.lineno for other in tensors) == 1 and "(" in lines[one.lineno - 1].partition("#")[2]
                only = len(tensors) == 1 and "(" in comments
                yield f"{one.lineno} {one.arg}", alone or only or re.search(rf"\b{one.arg}\b[^()]*\(", comments) is not None


@pytest.mark.parametrize("path", modules("certify"), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_tensor_parameter_has_its_shape(path: Path) -> None:
    assert [name for name, shaped in tensor_parameters(path.read_text()) if not shaped] == []


def test_a_missing_shape_is_found() -> None:
    text = "def f(\n    x: Tensor,\n    y: Tensor,  # (batch,)\n) -> None:\n    'Of (x, y).'\n"
    assert list(tensor_parameters(text)) == [("2 x", False), ("3 y", True)]


@pytest.mark.parametrize("room", ["certify", "workers", "api", "storage", "deploy"])
def test_radii_are_shown_only_through_rounding(room: str) -> None:
    # An operator's epsilon is no radius.
    looked_at = [path for path in modules(room) if path.stem != "rounding" and "operators" not in path.parts]
    assert [f"{path.relative_to(ROOT)}:{place}" for path in looked_at for place in unrounded(path.read_text())] == []


SHOWN = re.compile(r"\{\{(.*?)\}\}")


def test_pages_show_radii_only_through_rounding() -> None:
    for path in (ROOT / "api/pages").glob("*.html"):
        cells = [cell for cell in SHOWN.findall(path.read_text()) if re.search(r"\w\.\w*radi(us|i)|epsilon", cell)]
        assert [cell for cell in cells if not cell.strip().startswith("show_radius(")] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('f"at {rule.radius:g}"', True),
        ('f"at {radius}"', True),
        ("f\"at {point['radius']!r}\"", True),
        ('f"reaches {reach:.6g} at most"', True),
        ('f"{math.floor(reach * 1e4) / 1e4:g}"', True),
        ('", ".join(f"{one:g}" for one in certifier.radii)', True),
        ('"at %.3f" % row.radius', True),
        ('"at {:.3f}".format(row.radius)', True),
        ("repr(point.radius)", True),
        ('f"{spec.epsilon:g}"', True),
        ('f"at {show_radius(rule.radius)}"', False),
        ('f"{show_given(max(self.radii or ()))}"', False),
        ('f"{len(radii)} radii"', False),
        ('f"{where} at {found:g} s"', False),
    ],
)
def test_a_radius_that_is_shown_otherwise_is_found(text: str, found: bool) -> None:
    assert bool(list(unrounded(text))) is found


@pytest.mark.parametrize("path", [p for p in modules("certify") if p.read_text().strip()], ids=lambda p: str(p.relative_to(ROOT)))
def test_public_things_say_what_they_guarantee(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and path.stem not in ("facts",):
            enumeration = isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "StrEnum" for base in node.bases)
            assert ast.get_docstring(node) or enumeration, f"{path.name}: {node.name}"


def _with_venv() -> dict[str, str]:
    import os

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
