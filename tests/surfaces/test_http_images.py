"""POST /api/generate-image and GET /images/{image_id}."""

import hashlib
import io
import logging

import pytest
from PIL import Image

from .http_node import IMAGE, HttpNode, events_of


async def test_an_image_comes_as_a_png_with_headers_that_say_who_made_it(node: HttpNode) -> None:
    answer = await node.image(seed=7, width=96, height=64, steps=2)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (96, 64)
    headers = answer.headers
    assert (headers["x-fleet-node"], headers["x-fleet-model"], headers["x-herd-seed"]) == ("tester", IMAGE, "7")
    assert int(headers["x-generation-time"]) > 0
    job = await node.herd.job(headers["x-herd-job"])
    assert (job.status, job.client, headers["x-herd-image"]) == ("completed", "http", "img-" + job.id[4:])


async def test_what_is_not_named_is_as_the_model_says(node: HttpNode) -> None:
    answer = await node.http.post("/api/generate-image", json={"model": IMAGE, "prompt": "x", "negative_prompt": ""})
    assert answer.status_code == 200, answer.text
    job = await node.herd.job(answer.headers["x-herd-job"])
    assert job.result is not None
    assert job.result.kind == "image"
    assert (job.result.width, job.result.height, job.result.steps) == (64, 64, 4)


async def test_an_image_is_served_again_by_its_id_and_never_changes(node: HttpNode) -> None:
    made = await node.image()
    path = f"/images/{made.headers['x-herd-image']}"
    again = await node.http.get(path)
    assert (again.status_code, again.headers["content-type"], again.content) == (200, "image/png", made.content)
    assert again.headers["etag"] == f'"{hashlib.sha256(made.content).hexdigest()}"'
    assert "immutable" in again.headers["cache-control"]
    head = await node.http.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", again.headers["etag"])
    assert head.headers["content-length"] == str(len(made.content))
    unchanged = await node.http.get(path, headers={"If-None-Match": again.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    thumbnail = await node.http.get(path, params={"thumbnail": "1"})
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"
    assert thumbnail.headers["etag"] != again.headers["etag"]


@pytest.mark.parametrize("image_id", ["img-0000000000-000000000000", "nonsense", "..%2f..%2fetc%2fpasswd", "img-%00"])
async def test_an_image_that_is_not_there_is_404(node: HttpNode, image_id: str) -> None:
    answer = await node.http.get(f"/images/{image_id}")
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)
    assert (await node.http.head(f"/images/{image_id}")).status_code == 404


async def test_progress_streams_when_asked_for_and_ends_with_a_link(node: HttpNode) -> None:
    body = {"model": IMAGE, "prompt": "x", "steps": 3}
    answer = await node.http.post("/api/generate-image", json=body, headers={"Accept": "text/event-stream"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["x-fleet-node"], answer.headers["x-fleet-model"]) == ("tester", IMAGE)
    events = events_of(answer.content)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    steps = [event["step"] for event in events if event["type"] == "progress" and event["message"].startswith("step")]
    assert steps == [1, 2, 3]
    assert [event["type"] for event in events].count("completed") == 1
    end = events[-1]
    assert "path" not in end["result"]
    assert b"event: completed\n" in answer.content
    png = await node.http.get(end["link"])
    assert hashlib.sha256(png.content).hexdigest() == end["result"]["sha256"]


async def test_a_stream_that_cannot_begin_has_a_real_status(node: HttpNode) -> None:
    assert (await node.image()).status_code == 200  # so that no model has to be loaded first
    events = {"Accept": "text/event-stream"}
    for body, status in (
        ({"model": "herd-tiny-imag", "prompt": "x"}, 404),
        ({"model": IMAGE, "prompt": "x", "width": 4096}, 400),
        ({"model": IMAGE, "prompt": "x", "width": 1024}, 400),
    ):
        answer = await node.http.post("/api/generate-image", json=body, headers=events)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


async def test_tags_from_all_three_places_are_counted(node: HttpNode) -> None:
    body = {"model": IMAGE, "prompt": "x", "steps": 1, "metadata": {"tags": ["poster", "draft"]}, "user": "ada"}
    answer = await node.http.post("/api/generate-image", json=body, headers={"X-Herd-Tags": "shop , poster,,"})
    assert answer.status_code == 200
    assert (await node.herd.job(answer.headers["x-herd-job"])).tags == ("poster", "draft", "shop", "user:ada")
    stats = (await node.http.get("/dashboard/api/image-stats")).json()
    assert {tag: stats["by_tag"][tag] for tag in ("poster", "draft", "shop", "user:ada")} == {
        "poster": 1,
        "draft": 1,
        "shop": 1,
        "user:ada": 1,
    }


async def test_unknown_fields_are_ignored_with_one_line_in_the_log(
    node: HttpNode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="herd_mcp.surfaces.bodies"):
        assert (await node.image(sampler="euler", **{"evil\nname": 1})).status_code == 200
    lines = [record.getMessage() for record in caplog.records if record.name == "herd_mcp.surfaces.bodies"]
    assert lines == ["POST /api/generate-image: ignored fields: 'evil\\nname', 'sampler'"]


async def test_statistics_and_health_have_the_keys_that_their_readers_know(node: HttpNode) -> None:
    assert (await node.image()).status_code == 200
    stats = (await node.http.get("/dashboard/api/image-stats")).json()
    assert {"total", "completed", "failed", "avg_generation_ms", "by_node", "by_model", "recent"} <= set(stats)
    assert set(stats["recent"][0]) >= {
        *("timestamp", "model", "node_id", "status", "generation_ms", "width", "height", "error"),
    }
    assert stats["by_model"][IMAGE] == stats["by_node"]["tester"] == stats["completed"] >= 1
    health = (await node.http.get("/dashboard/api/health")).json()
    assert set(health) == {"vitals", "recommendations", "checked_at", "absent"}
    assert set(health["vitals"]) >= {
        *("nodes_total", "nodes_online", "nodes_degraded", "nodes_offline", "overall_error_rate_pct"),
        *("cold_loads_24h", "avg_ttft_ms", "total_requests_24h", "total_retries_24h", "client_disconnects_24h"),
        *("incomplete_streams_24h", "image_generations_24h", "transcriptions_24h", "health_score"),
    }
    assert health["vitals"]["image_generations_24h"] == stats["completed"]
