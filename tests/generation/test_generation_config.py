import json

import pytest

from tf_gpt import GenerationConfig


def test_options_come_back_from_a_file(tmp_path):
    config = GenerationConfig(
        max_new_tokens=9, do_sample=True, top_p=0.9, eos_token_id=[1, 2], seed=3
    )
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert stored == {
        "max_new_tokens": 9,
        "do_sample": True,
        "top_p": 0.9,
        "eos_token_id": [1, 2],
        "seed": 3,
    }


def test_a_file_of_transformers_is_read():
    config = GenerationConfig.from_dict(
        {
            "_from_model_config": True,
            "transformers_version": "4.57.6",
            "use_cache": True,
        }
    )
    assert config == GenerationConfig()


def test_updated_leaves_the_original_alone():
    config = GenerationConfig(do_sample=True)
    assert config.updated(temperature=0.5).temperature == 0.5
    assert config.temperature == 1.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_new_tokens": 0}, "`max_new_tokens`.*Received: 0"),
        ({"max_new_tokens": 2.5}, "`max_new_tokens`.*Received: 2.5"),
        ({"max_length": -1}, "`max_length`.*Received: -1"),
        ({"temperature": 0.0, "do_sample": True}, "`temperature`.*temperature=0.0"),
        ({"temperature": -2.0, "do_sample": True}, "`temperature`.*temperature=-2.0"),
        ({"top_p": 0.0, "do_sample": True}, "`top_p`.*top_p=0.0"),
        ({"top_p": 1.5, "do_sample": True}, "`top_p`.*top_p=1.5"),
        ({"top_k": -1}, "`top_k`.*Received: -1"),
        ({"eos_token_id": -1}, "`eos_token_id`.*Received: -1"),
        ({"eos_token_id": [1, "x"]}, "`eos_token_id`.*'x'"),
        ({"seed": -1}, "`seed`.*Received: -1"),
        ({"seed": [1, -1]}, r"`seed`.*Received: \[1, -1\]"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"dola_layers": "low"}, "`dola_layers` is not supported.*'low'"),
        ({"watermarking_config": {}}, "`watermarking_config` is not supported"),
        ({"temprature": 0.5}, "Unknown option of generation: temprature=0.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig.from_dict(options)


def test_a_bad_file_is_named(tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text('{"top_p": ')
    with pytest.raises(ValueError, match=r"config\.json is not a usable"):
        GenerationConfig.from_pretrained(tmp_path)
