"""Weights and operations of an ONNX file, without the `onnx` package and without executing it.

An ONNX file is a protocol buffer: numbered fields, of which only a few are needed
(https://onnx.ai/onnx/repo-docs/IR.html, https://protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import TvlensError

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_TENSOR = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME = 1, 2, 3
_TENSOR_DIM, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT = 1


class Node(NamedTuple):
    """One operation of the graph: its name, and the names of its inputs and outputs."""

    name: str
    inputs: list[str]
    outputs: list[str]


def read_onnx(data: bytes) -> tuple[dict[str, Tensor], list[Node]]:
    """Read the float32 weights by name, and the operations in order.

    Raises:
        TvlensError: the bytes are no ONNX model.
    """
    try:
        graphs = [value for key, value in _read_fields(memoryview(data)) if key == _MODEL_GRAPH]
        (graph,) = graphs
        parts = list(_read_fields(graph))
        tensors = [_parse_tensor(value) for key, value in parts if key == _GRAPH_TENSOR]
        nodes = [_parse_node(value) for key, value in parts if key == _GRAPH_NODE]
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise TvlensError(f"this is no ONNX model ({error})") from error
    return {name: tensor for name, tensor in tensors if tensor is not None}, nodes


def _read_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Parse the fields of one message: (number, integer or bytes)."""
    offset = 0
    while offset < len(data):
        key, offset = _read_varint(data, offset)
        kind = key & 7
        if kind == 0:
            value, offset = _read_varint(data, offset)
        else:
            if kind == 2:
                size, offset = _read_varint(data, offset)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"unknown wire type {kind}")
            if offset + size > len(data):
                raise ValueError("it ends too early")
            value, offset = data[offset : offset + size], offset + size
        yield key >> 3, value


def _read_varint(data: memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
    raise ValueError("a number of more than ten bytes")


def _parse_tensor(data: memoryview) -> tuple[str, Tensor | None]:
    """Parse a weight; None if it is not float32 or not stored as raw little-endian bytes."""
    name, kind, raw, shape = "", 0, None, []
    for key, value in _read_fields(data):
        if key == _TENSOR_NAME:
            name = bytes(value).decode()
        elif key == _TENSOR_TYPE:
            kind = value
        elif key == _TENSOR_RAW:
            raw = bytearray(value)
        elif key == _TENSOR_DIM:
            shape += [value] if isinstance(value, int) else _read_packed(value)
    if kind != _FLOAT or not raw:
        return name, None
    return name, torch.frombuffer(raw, dtype=torch.float32).reshape(shape)


def _read_packed(data: memoryview) -> list[int]:
    values, offset = [], 0
    while offset < len(data):
        value, offset = _read_varint(data, offset)
        values.append(value)
    return values


def _parse_node(data: memoryview) -> Node:
    node = Node("", [], [])
    for key, value in _read_fields(data):
        if key == _NODE_INPUT:
            node.inputs.append(bytes(value).decode())
        elif key == _NODE_OUTPUT:
            node.outputs.append(bytes(value).decode())
        elif key == _NODE_NAME:
            node = node._replace(name=bytes(value).decode())
    return node
