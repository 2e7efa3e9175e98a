"""The shapes of a picture as packets of a Perfetto trace.

What a packet may hold is said in ``protos/perfetto/trace`` of Perfetto's sources, of which the
package ``perfetto`` has the classes.  Packets stand in a file in any order: who reads one
sorts them by time.
"""

from __future__ import annotations

from typing import IO

from aioaudit.exporters.perfetto.picture import Shape, Slice, Track

# The package has stubs for what is in it, but does not say so (py.typed).
from perfetto.protos.perfetto.trace import (  # type: ignore[import-untyped]
    perfetto_trace_pb2 as trace,  # pyright: ignore[reportMissingTypeStubs]
)

_SEQUENCE = 1  # all packets are from one writer
_REALTIME = trace.BUILTIN_CLOCK_REALTIME  # nanoseconds since the epoch
_BOOTTIME = trace.BUILTIN_CLOCK_BOOTTIME  # which a trace counts in unless told otherwise


class PacketWriter:
    """Writes shapes to *stream* as one trace.

    Args:
        stream: Takes bytes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._began = False

    def draw(self, shape: Shape) -> None:
        """Write *shape*."""
        if isinstance(shape, Track):
            self._track(shape)
        else:
            self._slice(shape)

    def _track(self, shape: Track) -> None:
        packet = trace.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
        track = packet.track_descriptor
        track.uuid = shape.id
        if shape.parent is not None:
            track.parent_uuid = shape.parent
            track.name = shape.name
        if shape.pid is not None:
            track.process.pid = shape.pid
            track.process.process_name = shape.name
        self._write(packet)

    def _slice(self, shape: Slice) -> None:
        if not self._began:
            self._began = True
            self._clock(shape.start)
        packet = _packet(shape.track, shape.start)
        event = packet.track_event
        instant = shape.end == shape.start
        event.type = event.TYPE_INSTANT if instant else event.TYPE_SLICE_BEGIN
        event.name = shape.name
        event.categories.append(shape.kind)
        event.flow_ids.extend(shape.out)
        event.terminating_flow_ids.extend(shape.into)
        for name, value in shape.facts.items():
            annotation = event.debug_annotations.add(name=name)
            if isinstance(value, bool):
                annotation.bool_value = value
            elif isinstance(value, int):
                annotation.int_value = value
            elif isinstance(value, float):
                annotation.double_value = value
            else:
                annotation.string_value = value
        self._write(packet)
        if not instant and shape.end is not None:
            packet = _packet(shape.track, shape.end)
            packet.track_event.type = event.TYPE_SLICE_END
            self._write(packet)

    def _clock(self, ns: int) -> None:
        """Say that times are those of the clock on the wall; the trace begins near *ns*."""
        packet = trace.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
        packet.clock_snapshot.primary_trace_clock = _REALTIME
        for clock in (_REALTIME, _BOOTTIME):
            packet.clock_snapshot.clocks.add(clock_id=clock, timestamp=ns)
        self._write(packet)

    def _write(self, packet: trace.TracePacket) -> None:
        self._stream.write(trace.Trace(packet=[packet]).SerializeToString())


def _packet(track: int, ns: int) -> trace.TracePacket:
    packet = trace.TracePacket(
        trusted_packet_sequence_id=_SEQUENCE, timestamp=ns, timestamp_clock_id=_REALTIME
    )
    packet.track_event.track_uuid = track
    return packet
