"""DeepSpeed's configuration: from our settings, with a user's additions, without contradictions."""

import json

import pytest

from fmsci.engine.zero_config import deepspeed_config
from fmsci.errors import SettingsError

FACTS = {"world_size": 3, "accumulate": 2, "num_parameters": 67_281, "offload": False, "grad_clip": 0.5}
FACTS |= {"stage": 2, "compress": False, "on_gpu": False}


def test_our_settings_are_in_it():
    config = deepspeed_config(**FACTS)
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_clipping"] == 0.5
    assert config["train_batch_size"] == 3 * config["gradient_accumulation_steps"]
    assert config["zero_optimization"]["reduce_bucket_size"] == 67_280
    assert not config["bf16"]["enabled"]
    assert config["communication_data_type"] == "fp32"
    assert deepspeed_config(**{**FACTS, "compress": True})["communication_data_type"] == "bf16"
    offloaded = deepspeed_config(**{**FACTS, "offload": True})
    assert offloaded["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


def test_a_file_adds_to_it(tmp_path):
    path = tmp_path / "more.json"
    more = {"zero_optimization": {"stage": 2, "round_robin_gradients": True, "reduce_bucket_size": 1000}}
    path.write_text(json.dumps({**more, "prescale_gradients": True}))
    config = deepspeed_config(**FACTS, extra=path)
    assert config["zero_optimization"]["round_robin_gradients"]
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["prescale_gradients"]
    assert config["gradient_clipping"] == 0.5


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage=3 but the settings of the run make it 2"),
        ({"gradient_clipping": 1.0}, "gradient_clipping=1.0 but the settings of the run make it 0.5"),
        ({"bf16": {"enabled": True}}, "bf16.enabled=True but the settings of the run make it False"),
        ({"optimizer": {"type": "Adam"}}, "has 'optimizer', but optim.* makes the optimizer"),
        ({"torch_autocast": {"enabled": True}}, "engine.precision=bf16 computes in bfloat16"),
        (
            {"communication_data_type": "bf16"},
            "communication_data_type='bf16' but the settings of the run make it 'fp32'",
        ),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types.grad_accum_dtype='bf16' but the settings"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer={'device': 'cpu'} but engine.offload is false",
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme"}}},
            "zero_optimization.offload_param={'device': 'nvme'} but engine.offload is false",
        ),
        ([1], "should hold a JSON object of DeepSpeed's settings"),
    ],
)
def test_a_contradiction_names_both_values(tmp_path, document, sentence):
    path = tmp_path / "more.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError) as caught:
        deepspeed_config(**FACTS, extra=path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_may_say_how_to_offload_where_the_settings_do(tmp_path):
    path = tmp_path / "more.json"
    path.write_text(json.dumps({"zero_optimization": {"offload_optimizer": {"device": "cpu", "buffer_count": 2}}}))
    config = deepspeed_config(**{**FACTS, "offload": True}, extra=path)
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False, "buffer_count": 2}
    path.write_text(json.dumps({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}))
    with pytest.raises(
        SettingsError, match=r"offload_optimizer\.device='nvme' but the settings of the run make it 'cpu'"
    ):
        deepspeed_config(**{**FACTS, "offload": True}, extra=path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(SettingsError, match=r"^engine\.deepspeed_config: there is no file"):
        deepspeed_config(**FACTS, extra=tmp_path / "none.json")
