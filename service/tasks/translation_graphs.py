"""The two graphs of a translation: what each must take and answer, so that one goes on where the other ends."""

from __future__ import annotations

from service.errors import BundleRefused
from service.manifest import TokenizerPreprocessing, Variant
from service.tasks.graphs import by_name, expect

ENCODER, DECODER = "encoder", "decoder"


def check_graphs(variant: Variant, how: TokenizerPreprocessing) -> int:
    """Check the graphs of a variant.

    Returns:
        How many candidates the decoder picks.

    Raises:
        BundleRefused: they don't go together.
    """
    missing = [role for role in (ENCODER, DECODER) if role not in variant.graphs]
    if missing:
        raise BundleRefused("manifest.json", f"a translation needs the graphs {ENCODER} and {DECODER}")
    encoder, decoder = variant.graphs[ENCODER], variant.graphs[DECODER]
    read, answered = by_name(encoder.inputs), by_name(encoder.outputs)
    given, told = by_name(decoder.inputs), by_name(decoder.outputs)
    if encoder.step is not None or decoder.step is None or decoder.step.candidates is None:
        raise BundleRefused("manifest.json", f"{DECODER} must be a step that picks candidates, and {ENCODER} no step")
    step, candidates = decoder.step, decoder.step.candidates
    if sorted(read) != sorted((how.input, how.lengths)):
        raise BundleRefused("manifest.json", f"{encoder.file} must have the inputs {how.input!r} and {how.lengths!r}")
    expect(encoder, read[how.input], "INT64", ("batch", None))
    expect(encoder, read[how.lengths], "INT64", ("batch",))
    expect(decoder, given[step.token], "INT64", ("batch",))
    tokens, logprobs = told[candidates.tokens], told[candidates.logprobs]
    count = tokens.shape[1] if tokens.shape and len(tokens.shape) == 2 else None
    if not isinstance(count, int):
        raise BundleRefused(
            "manifest.json", f"{decoder.file}: the shape of {tokens.name!r} must tell how many there are"
        )
    expect(decoder, tokens, "INT64", ("batch", count))
    expect(decoder, logprobs, "FP32", ("batch", count))
    for pair in step.states:
        state = given[pair.input]
        if state.shape is None or not all(isinstance(size, int) for size in state.shape[1:]):
            raise BundleRefused("manifest.json", f"{decoder.file}: state {state.name!r} must have one shape")
        expect(decoder, told[pair.output], state.datatype, state.shape)
    for name in (*step.context, *(pair.input for pair in step.states)):
        if name not in answered:
            raise BundleRefused("manifest.json", f"{encoder.file} does not answer {name!r}, which {decoder.file} needs")
        expect(encoder, answered[name], given[name].datatype, given[name].shape)
    for name in step.context:
        if any(isinstance(size, int) for size in (given[name].shape or ())[1:2]):
            raise BundleRefused("manifest.json", f"{decoder.file}: the second axis of {name!r} must be the sentence's")
    if step.attention is not None:
        expect(decoder, told[step.attention], "FP32", ("batch", None))
    return count
