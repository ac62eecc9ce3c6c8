"""The weights of an ONNX file, read without the `onnx` package and without running anything.

An ONNX file is a protocol buffer: numbered fields, of which weights need only a handful
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
    """One operation of the graph: its name, and the names of what goes in and comes out."""

    name: str
    inputs: list[str]
    outputs: list[str]


def read(data: bytes) -> tuple[dict[str, Tensor], list[Node]]:
    """The float32 weights by name, and the operations in order.

    Raises:
        TvlensError: the bytes are no ONNX model.
    """
    try:
        graphs = [value for key, value in _fields(memoryview(data)) if key == _MODEL_GRAPH]
        (graph,) = graphs
        parts = list(_fields(graph))
        named = [_tensor(value) for key, value in parts if key == _GRAPH_TENSOR]
        nodes = [_node(value) for key, value in parts if key == _GRAPH_NODE]
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise TvlensError(f"this is no ONNX model ({error})") from error
    return {name: tensor for name, tensor in named if tensor is not None}, nodes


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: (number, whole number or bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                size, at = _varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"unknown wire type {kind}")
            if at + size > len(data):
                raise ValueError("it ends too early")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _tensor(data: memoryview) -> tuple[str, Tensor | None]:
    """A weight; None where it is not float32 or not stored as raw little-endian bytes."""
    name, kind, raw, shape = "", 0, None, []
    for key, value in _fields(data):
        if key == _TENSOR_NAME:
            name = bytes(value).decode()
        elif key == _TENSOR_TYPE:
            kind = value
        elif key == _TENSOR_RAW:
            raw = bytearray(value)
        elif key == _TENSOR_DIM:
            shape += [value] if isinstance(value, int) else _packed(value)
    if kind != _FLOAT or not raw:
        return name, None
    return name, torch.frombuffer(raw, dtype=torch.float32).reshape(shape)


def _packed(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _node(data: memoryview) -> Node:
    node = Node("", [], [])
    for key, value in _fields(data):
        if key == _NODE_INPUT:
            node.inputs.append(bytes(value).decode())
        elif key == _NODE_OUTPUT:
            node.outputs.append(bytes(value).decode())
        elif key == _NODE_NAME:
            node = node._replace(name=bytes(value).decode())
    return node
