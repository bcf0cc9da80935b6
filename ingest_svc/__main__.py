"""python -m ingest_svc"""

from __future__ import annotations

import os
import socket
from functools import partial

import prometheus_client
from poi.v1 import (
    alert_pb2_grpc,
    erasure_pb2_grpc,
    history_pb2_grpc,
    ingest_pb2_grpc,
    match_pb2_grpc,
    region_pb2_grpc,
)

from ingest_svc.acknowledgements import Acknowledgements
from ingest_svc.alerts import AlertRaiser
from ingest_svc.batch_stream import BatchStream
from ingest_svc.cameras import CameraParser
from ingest_svc.clocks import CameraClocks
from ingest_svc.dead_letters import DeadLetters
from ingest_svc.detections import DetectionFlow
from ingest_svc.evidence import Evidence
from ingest_svc.exits import Exits
from ingest_svc.intake import Intake, Topics
from ingest_svc.mqtt import Mqtt, Token
from ingest_svc.presence import Presence
from ingest_svc.scene_flow import SceneFlow
from ingest_svc.scenes import SceneParser
from ingest_svc.service import SERVICE, IngestService
from ingest_svc.settings import IngestSettings
from ingest_svc.traces import IngestTraces
from mesh import calling, channels, names, redis, traces
from mesh.aio import Background
from mesh.server import Server, run
from mesh.settings import load

_CONNECTED = prometheus_client.Gauge("poi_ingest_connected", "1 while the broker has our subscriptions.")
_PENDING = prometheus_client.Gauge("poi_ingest_pending_messages", "Messages that are not yet acknowledged.")
_OLDEST = prometheus_client.Gauge("poi_ingest_oldest_pending_seconds", "How long the oldest of them has waited.")
_SKEWED = prometheus_client.Gauge("poi_ingest_skewed_cameras", "Cameras whose clocks are wrong.")
_DETECTIONS = prometheus_client.Gauge("poi_ingest_detections", "Detections that history and match have taken.")


async def main() -> None:
    """Build the parts in the order in which a message meets them, from the end, and serve."""
    settings = load(IngestSettings)
    server = Server(settings)
    background = Background()
    parent = names.store(settings.store)
    client = redis.connect(settings.redis_url)
    opened = {name: channels.to_service(settings, name) for name in ("history", "match", "region", "alert")}
    stream = partial(BatchStream, max_message_bytes=settings.max_message_bytes)
    history = stream("history", history_pb2_grpc.HistoryServiceStub(opened["history"]).AppendDetections)
    # Of their own: a frame waits for a disk or an object store, and nobody's alert waits for a frame.
    frames = stream("frames", history_pb2_grpc.HistoryServiceStub(opened["history"]).AppendDetections)
    match = stream("match", match_pb2_grpc.MatchServiceStub(opened["match"]).MatchDetections)
    of_store = calling.headers({calling.STORE_HEADER: settings.store})
    scene_updates = region_pb2_grpc.RegionServiceStub(opened["region"]).RecordSceneUpdates
    region = stream("region", partial(scene_updates, metadata=of_store))
    alerts = AlertRaiser(parent, alert_pb2_grpc.AlertServiceStub(opened["alert"]))

    topics = Topics(settings.topic_root)
    mqtt: Mqtt  # the flows acknowledge and publish through it; it delivers to them
    acknowledgements = Acknowledgements(lambda token: mqtt.acknowledge(token))
    dead_letters = DeadLetters(
        client,
        settings.store,
        lambda topic, payload, qos: mqtt.publish(topic, payload, qos),
        settings.dead_letter_topic,
    )
    presence = Presence(client, settings.store, f"{socket.gethostname()}-{os.getpid()}")
    clocks = CameraClocks(
        lambda camera, problem: dead_letters.refuse(camera, [problem], None),
        most_waiting_seconds=settings.session_expiry_seconds,
    )
    evidence = (
        Evidence(
            settings.store,
            frames,
            ask=lambda camera_id: mqtt.publish(topics.command + camera_id, b"getimage"),
            wait_seconds=settings.evidence_wait_seconds,
            on_problem=lambda camera, problem: dead_letters.refuse(camera, [problem], None),
            correct=clocks.correct,
        )
        if settings.evidence
        else None
    )
    exits = (
        Exits(evidence, gap_seconds=settings.gap_seconds, every_seconds=settings.exit_frame_seconds)
        if evidence and settings.exit_frame_seconds
        else None
    )
    detections = DetectionFlow(
        parent,
        history,
        match,
        alerts,
        acknowledgements,
        clocks,
        batch_detections=settings.batch_detections,
        batch_wait_seconds=settings.batch_wait_ms / 1000,
        on_sighting=lambda detection, appearance, why: (
            evidence.want(detection.camera, appearance, why) if evidence else None
        ),
        on_stored=exits.seen if exits else None,
        on_problems=lambda camera, problems: dead_letters.refuse(camera, problems, None),
    )
    scenes = SceneFlow(
        parent, region, acknowledgements, lambda scene, problems: dead_letters.refuse(scene, problems, None)
    )
    intake = Intake(
        topics,
        CameraParser(
            settings.store,
            model=settings.model,
            aligned_cameras=frozenset(settings.aligned_cameras),
            max_objects=settings.max_objects,
        ),
        SceneParser(settings.store, max_objects=settings.max_objects),
        detections=detections,
        scene_flow=scenes,
        evidence=evidence,
        acknowledgements=acknowledgements,
        presence=presence,
        dead_letters=dead_letters,
        clocks=clocks,
        max_payload_bytes=settings.max_payload_bytes,
    )

    def take(topic: str, payload: bytes, token: Token) -> None:
        intake.take(topic, payload, token)
        if acknowledgements.pending >= 2 * settings.receive_maximum:  # brokers before MQTT 5 know no receive maximum
            mqtt.pause()

    mqtt = Mqtt(
        settings.mqtt_url,
        client_id=settings.client_id,
        subscriptions=topics.subscriptions(settings.shared_group),
        on_message=take,
        session_expiry_seconds=settings.session_expiry_seconds,
        receive_maximum=settings.receive_maximum,
    )
    acknowledgements.on_change = lambda pending: mqtt.resume() if pending < settings.receive_maximum else None
    _CONNECTED.set_function(lambda: float(mqtt.connected))
    _PENDING.set_function(lambda: acknowledgements.pending)
    _OLDEST.set_function(lambda: acknowledgements.oldest_seconds)
    _SKEWED.set_function(lambda: len(clocks))
    _DETECTIONS.set_function(lambda: detections.detections)

    service = IngestService(
        settings.store,
        mqtt=mqtt,
        intake=intake,
        acknowledgements=acknowledgements,
        detections=detections,
        scenes=scenes,
        evidence=evidence,
        presence=presence,
        dead_letters=dead_letters,
    )
    server.add(ingest_pb2_grpc.add_IngestServiceServicer_to_server, service, SERVICE)
    keeper = IngestTraces(client, settings.store, detections.sent, evidence, exits)
    server.add(
        erasure_pb2_grpc.add_TraceServiceServicer_to_server, traces.TraceServicer(keeper, client), traces.SERVICE
    )
    server.on_stop(client.aclose)
    for channel in opened.values():
        server.on_stop(channel.close)
    server.on_stop(background.close)
    server.on_stop(detections.close)
    if evidence is not None:
        server.on_stop(evidence.close)
    for name, work in (
        ("history stream", history.run),
        ("frame stream", frames.run),
        ("match stream", match.run),
        ("region stream", region.run),
        ("scene flow", scenes.run),
        ("presence", presence.run),
        *([("exits", exits.run)] if exits else []),
        ("dead letters", dead_letters.run),
        ("mqtt", mqtt.run),  # takes the session over from a server that runs: not before our port is free
    ):
        server.on_start(partial(background.start, name, work))
    await server.serve()


if __name__ == "__main__":
    run(main)
