from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from service.protocols.open_inference.grpc import open_inference_pb2 as pb

SOURCE = Path(pb.__file__).with_name("open_inference.proto")


def without_json_names(messages: Iterable[descriptor_pb2.DescriptorProto]) -> None:
    """Take away what protoc writes into a set of descriptors, and not into code."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        without_json_names(message.nested_type)


def test_the_generated_code_is_what_the_proto_says(tmp_path: Path) -> None:
    out = tmp_path / "descriptors"
    assert protoc.main(["protoc", f"-I{SOURCE.parent}", f"--descriptor_set_out={out}", SOURCE.name]) == 0
    (said,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    without_json_names(said.message_type)
    generated = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(generated)
    assert generated == said, "run `make proto`"


def test_the_types_are_those_of_the_same_messages() -> None:
    stubs = SOURCE.with_name("open_inference_pb2.pyi").read_text(encoding="utf-8")
    for name in (*pb.DESCRIPTOR.message_types_by_name, *pb.DESCRIPTOR.enum_types_by_name):
        assert f"\nclass {name}(" in stubs, "run `make proto`"


def test_a_request_as_tritons_client_writes_it_is_understood() -> None:
    request = pb.ModelInferRequest.FromString(
        bytes.fromhex(
            "0a016d1201321a05736576656e22070a016212020801220e0a0166120921000000000000f83f220e0a087072696f7269747912022801"
            "220b0a017312061a0474657874220e0a0774696d656f757412031088272a0d0a01611204465033321a0201032a0d0a01621205425954"
            "45531a010132190a017912140a0e636c617373696669636174696f6e120210023a0c0000803f00000040000040403a06020000006869"
        )
    )
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "seven")
    assert [(one.name, one.datatype, list(one.shape)) for one in request.inputs] == [
        ("a", "FP32", [1, 3]),
        ("b", "BYTES", [1]),
    ]
    assert list(request.raw_input_contents) == [b"\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40", b"\2\0\0\0hi"]
    assert request.parameters["priority"].uint64_param == 1
    assert request.parameters["timeout"].int64_param == 5000
    assert request.parameters["b"].bool_param is True
    assert request.parameters["s"].string_param == "text"
    assert request.parameters["f"].double_param == 1.5
    assert request.outputs[0].name == "y"
    assert request.outputs[0].parameters["classification"].int64_param == 2


def test_a_request_as_kserves_client_writes_it_is_understood() -> None:
    request = pb.ModelInferRequest.FromString(
        bytes.fromhex("0a016d1a0565696768742a1c0a01781205494e5433321a01022a0d120b01feffffffffffffffff01")
    )
    assert (request.model_name, request.id) == ("m", "eight")
    assert list(request.inputs[0].contents.int_contents) == [1, -2]


def test_both_clients_ways_to_name_a_model_to_load_are_understood() -> None:
    triton = pb.RepositoryModelLoadRequest.FromString(bytes.fromhex("12016d1a0e0a06636f6e66696712041a027b7d"))
    assert (triton.repository_name, triton.model_name) == ("", "m")
    assert triton.parameters["config"].string_param == "{}"
    kserve = pb.RepositoryModelLoadRequest.FromString(bytes.fromhex("0a016d"))
    assert (kserve.repository_name, kserve.model_name) == ("m", "")
