from muai_core.runtime.environment import compose_environment


def test_an_engine_inherits_little_and_no_secret_of_the_controller() -> None:
    own = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HTTPS_PROXY": "http://proxy",
        "https_proxy": "http://proxy",
        "HF_HOME": "/models",
        "OMP_NUM_THREADS": "2",
        "MUAI_GATEWAY_KEYS": "secret",
        "MUAI__GATEWAY__KEYS": "secret",
        "OPENAI_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "VLLM_API_KEY": "secret",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "/elsewhere",
        "VIRTUAL_ENV": "/venv",
    }
    composed = compose_environment(own, {"CUDA_VISIBLE_DEVICES": "GPU-a", "LC_ALL": "C.UTF-8"})
    assert composed == {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "HTTPS_PROXY": "http://proxy",
        "https_proxy": "http://proxy",
        "HF_HOME": "/models",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "SPT_NOENV": "1",
    }


def test_an_engine_may_overrule_a_default() -> None:
    assert compose_environment({}, {"SPT_NOENV": ""})["SPT_NOENV"] == ""
