"""Models and datasets on a service, and what every command that talks to one shares."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import err, sentences, show_json, show_table
from api.cli.facts import show_artifact
from api.cli.process import PASS_ON, become, run
from api.sdk.client import Client, ServiceError
from certify.spec import parse_spec

model_app = typer.Typer(no_args_is_help=True, help="Models by name and version: ONNX files, or torch modules exported here.")
dataset_app = typer.Typer(
    no_args_is_help=True,
    help="Datasets by name and version: .npz, .npy, .safetensors or Parquet files; pack makes one from a folder of images.",
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Require = Annotated[
    list[str] | None, typer.Option("--require", metavar="SHARE@RADIUS", help="a gate on certified accuracy, such as 0.60@0.25")
]
SpecText = Annotated[str, typer.Option("--spec", metavar="FILE|JSON", help="a JSON file, or the JSON itself")]


def client() -> Client:
    key = os.environ.get("ASSAY_KEY", "")
    if not key:
        raise ServiceError.at("ASSAY_KEY", "is not set", "export the key that assay up printed, or make one with: assay key create")
    return Client(os.environ.get("ASSAY_URL", "http://127.0.0.1:8000"), key)


@model_app.command("add")
def add_model(
    source: Annotated[str, typer.Argument(metavar="M.onnx|PACKAGE.MODULE:FACTORY|ARCHITECTURE")],
    name: Annotated[str, typer.Option()],
    value_range: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="range of raw input values")] = None,
    input_shape: Annotated[str | None, typer.Option(metavar="1,28,28", help="export a torch module first; see assay export")] = None,
    weights: Annotated[str | None, typer.Option(metavar="W.safetensors")] = None,
    classes: Annotated[str | None, typer.Option(help="number of classes of an architecture")] = None,
    mean: Annotated[str | None, typer.Option(help="put (x - mean) / std in front")] = None,
    std: Annotated[str | None, typer.Option()] = None,
    class_names: Annotated[str | None, typer.Option(metavar="cat,dog,...")] = None,
    opset: Annotated[str | None, typer.Option(help="version of the ONNX operators")] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="an argument of FACTORY")] = None,
    as_json: Json = False,
) -> None:
    """Upload a model and wait until a worker has inspected it: an ONNX file, or a torch module that is exported here first."""
    wanted = {"weights": weights, "classes": classes, "mean": mean, "std": std, "class-names": class_names, "opset": opset}
    given = [f"--{key}={value}" for key, value in wanted.items() if value is not None] + [f"--arg={pair}" for pair in arg or ()]
    with sentences(), tempfile.TemporaryDirectory() as folder, client() as service:
        if input_shape is not None:
            given += [f"--input-shape={input_shape}"] + ([f"--range={value_range}"] if value_range else [])
            file = _exported(source, given, Path(folder) / "model.onnx")
        else:
            file = _file(source, given)
        added = service.add_model(name, file, _range(value_range))
        _inspected(service, "models", added["id"], as_json)


def _exported(source: str, options: list[str], out_file: Path) -> Path:
    code = run("workers.export", source, f"--out={out_file}", *options)
    if code:
        raise typer.Exit(code)
    return out_file


def _file(source: str, options: list[str]) -> Path:
    """The ONNX file to send as it is; options of an export would change nothing in it, and are never passed over in silence."""
    path = Path(source)
    if options and path.exists():
        raise ServiceError.at(options[0].partition("=")[0], "is for torch modules; an ONNX file is sent as it is", "leave it out")
    if options or not (path.exists() or path.suffix == ".onnx"):
        detail = f"is needed to export {source}, which is no file"
        raise ServiceError.at("input-shape", detail, "give the shape of one input: --input-shape 3,32,32")
    return path


@dataset_app.command("add")
def add_dataset(file: Path, name: Annotated[str, typer.Option()], as_json: Json = False) -> None:
    """Upload a dataset and wait until a worker has inspected it."""
    with sentences(), client() as service:
        _inspected(service, "datasets", service.add_dataset(name, file)["id"], as_json)


@dataset_app.command("pack", context_settings=PASS_ON)
def pack_dataset(context: typer.Context) -> None:
    """Make an .npz of a folder of images, a Parquet file or two .npy files: FOLDER --out D.npz [--size H,W] [--grey] [--limit N]."""
    become("workers.pack", *context.args)


@model_app.command("retry")
def retry_model(model: str, as_json: Json = False) -> None:
    """Have a rejected or failed model inspected again, by id or name, and wait for it."""
    _retry("models", model, as_json)


@dataset_app.command("retry")
def retry_dataset(dataset: str, as_json: Json = False) -> None:
    """Have a rejected or failed dataset inspected again, by id or name, and wait for it."""
    _retry("datasets", dataset, as_json)


@model_app.command("list")
def list_models(as_json: Json = False) -> None:
    """Models, newest first."""
    _list("models", as_json)


@dataset_app.command("list")
def list_datasets(as_json: Json = False) -> None:
    """Datasets, newest first."""
    _list("datasets", as_json)


@model_app.command("show")
def show_model(model: str, as_json: Json = False) -> None:
    """A model's facts, by id or name."""
    with sentences(), client() as service:
        _show_artifact(service.get(f"/v1/models/{resolve(service, 'models', model)}"), as_json)


@dataset_app.command("show")
def show_dataset(dataset: str, as_json: Json = False) -> None:
    """A dataset's facts, by id or name."""
    with sentences(), client() as service:
        _show_artifact(service.get(f"/v1/datasets/{resolve(service, 'datasets', dataset)}"), as_json)


def _inspected(service: Client, noun: str, artifact_id: str, as_json: bool) -> None:
    with err.status("waiting for a worker to inspect it"):
        found = service.inspected(noun, artifact_id)
    _show_artifact(found, as_json)


def _retry(noun: str, text: str, as_json: bool) -> None:
    with sentences(), client() as service, err.status("waiting for a worker to inspect it"):
        found = service.inspect_again(noun, resolve(service, noun, text))
    _show_artifact(found, as_json)


def _show_artifact(found: dict[str, Any], as_json: bool) -> None:
    show_json(found) if as_json else show_artifact(found)


def _list(noun: str, as_json: bool) -> None:
    with sentences(), client() as service:
        items = service.get(f"/v1/{noun}", limit=100)["items"]
        if as_json:
            show_json(items)
        else:
            show_table(
                ("id", "name", "version", "state", "created"),
                [(i["id"], i["name"], i["version"], i["state"], i["created_at"]) for i in items],
            )


def resolve(service: Client, noun: str, text: str) -> str:
    """An id as it is; `mine` or `mine@latest` as its newest version, `mine@3` as that one."""
    if text.startswith(("mdl_", "dat_")):
        return text
    name, _, version = text.partition("@")
    newest = version in ("", "latest")
    items = service.get(f"/v1/{noun}", name=name, limit=1 if newest else 1000)["items"]
    found = [item for item in items if newest or str(item["version"]) == version]
    if not found:
        raise ServiceError.at(noun[:-1], f"there is no {noun[:-1]} named {text!r}", f"list them with: assay {noun[:-1]} list")
    return str(found[0]["id"])


def read_spec(asked: str) -> dict[str, Any]:
    """A spec from a file, or written out on the command line."""
    text = asked
    if not asked.lstrip().startswith("{"):
        try:
            text = Path(asked).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise ServiceError.at("spec", f"cannot read {asked}: {why}", "check the path, or write the JSON itself") from None
    parse_spec(text)
    found: dict[str, Any] = json.loads(text)
    return found


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ServiceError.at("range", f"{text!r} is not LOW,HIGH", "write for example --range 0,1") from None
    return low, high
