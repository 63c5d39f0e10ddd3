"""BLIP's beam search against its definition, one image at a time, for models that are unsure when to stop."""

import math

import pytest
import torch
import transformers

from idvl.errors import UsageError
from idvl.models.generation import Generation, resolve
from idvl.models.loading import wrap
from tests.support import tiny

END, LEAST, MOST, BEAMS = tiny.VOCAB["[SEP]"], 5, 12, 3
SAMPLES = tiny.samples(12)
WHOLE = Generation(prompt="a red ", min_length=LEAST, max_length=MOST, beams=BEAMS, beam_length="whole")


def unsure(seed: int, bias: float):
    """A random BLIP whose texts depend on the image, and end the sooner the larger the bias of the end."""
    torch.manual_seed(seed)
    model, processor = tiny.blip()
    with torch.no_grad():
        for weight in {id(weight): weight for weight in model.parameters()}.values():
            if weight.ndim > 1:
                weight.mul_(6)
        model.text_decoder.cls.predictions.bias[END] += bias
    return wrap(model, processor)


def searched(log_probabilities, start: list[int]) -> list[int]:
    """The text that transformers 4.25 writes, for BLIP: BeamSearchScorer's rules for one text, without early stopping.

    A finished beam is worth its log-likelihood divided by its length, start and prompt included and the end not.
    """
    running, finished, done = [(0.0, start)], [], False
    while len(running[0][1]) < MOST and not done:
        length = len(running[0][1])
        following = log_probabilities([tokens for _, tokens in running])
        if length < LEAST:
            following[:, END] = -math.inf
        extended = [
            (score + value, tokens, token)
            for (score, tokens), values in zip(running, following.tolist(), strict=True)
            for token, value in enumerate(values)
        ]
        extended = sorted(extended, key=lambda candidate: -candidate[0])[: 2 * BEAMS]
        ended = [(score / length, tokens) for score, tokens, token in extended[:BEAMS] if token == END]
        finished = sorted(finished + ended, key=lambda beam: -beam[0])[:BEAMS]
        running = [(score, [*tokens, token]) for score, tokens, token in extended if token != END][:BEAMS]
        # no beam that goes on can become better than the worst that is finished
        done = len(finished) == BEAMS and finished[-1][0] >= extended[0][0] / length
    if not done:
        finished += [(score / len(tokens), tokens) for score, tokens in running]
    return max(finished, key=lambda beam: beam[0])[1]


@torch.no_grad()
def by_definition(loaded) -> list[str]:
    model, texts = loaded.model, []
    start = [model.config.text_config.bos_token_id, tiny.VOCAB["a"], tiny.VOCAB["red"]]
    for sample in SAMPLES:
        pixels = loaded.processor(images=sample.image, return_tensors="pt")["pixel_values"]
        image = model.vision_model(pixels).last_hidden_state

        def log_probabilities(tokens, image=image):
            states = image.expand(len(tokens), -1, -1)
            return model.text_decoder(torch.tensor(tokens), encoder_hidden_states=states).logits[:, -1].log_softmax(-1)

        written = searched(log_probabilities, start)[len(start) :]
        texts.append(loaded.processor.decode(written, skip_special_tokens=True))
    return texts


def written(loaded, settings: Generation) -> list[str]:
    skill = loaded.family.skills["caption"]
    return skill.perform(loaded, skill.prepare(loaded, SAMPLES, settings), settings)


# bias 0: some texts are cut at the maximum length, which the prompt's length alone would not get right
@pytest.mark.parametrize(("seed", "bias"), [(1, 0.0), (4, 1.1)])
def test_beams_are_divided_by_their_whole_length(seed, bias):
    loaded = unsure(seed, bias)
    expected = by_definition(loaded)
    assert written(loaded, WHOLE) == expected and len(set(expected)) > 4
    shorter = Generation(prompt="a red ", min_length=LEAST, max_length=MOST, beams=BEAMS)
    assert bias == 0 or written(loaded, shorter) != expected
    assert not {"_update_finished_beams", "_check_early_stop_heuristic"} & vars(loaded.model.text_decoder).keys()


def test_models_and_versions_without_such_a_search_are_refused(monkeypatch):
    assert resolve(unsure(0, 0), "caption", WHOLE) == WHOLE
    with pytest.raises(UsageError, match="beam_length whole is for BLIP's captions, not for"):
        resolve(wrap(*tiny.git()), "caption", WHOLE)
    monkeypatch.delattr(transformers.GenerationMixin, "_update_finished_beams")
    with pytest.raises(UsageError, match=rf"beam search of transformers {transformers.__version__}: leave it out"):
        resolve(unsure(0, 0), "caption", WHOLE)
