"""The Celery application: queues, routes, schedule. What each option holds off is in its comment."""

import time
from typing import Any

from celery import Celery
from celery.signals import before_task_publish
from kombu.entity import Queue as BrokerQueue

from worker.jsononly import require_json
from worker.settings import Settings, load_settings
from worker.timetable import schedule
from worker.transport import install
from worker.types import Queue


def configuration(settings: Settings) -> dict[str, Any]:
    """Give Celery's configuration; docs/decisions/0002-celery-settings.md says why each value."""
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        "result_backend": settings.broker_url.get_secret_value(),
        # JSON only: a pickle in the accept list is code execution for whoever reaches the broker
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # the database says what is done; a message is acked late and may come twice
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "worker_prefetch_multiplier": 1,
        "task_reject_on_worker_lost": False,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_expires": 3600,
        "task_time_limit": settings.task_time_limit,
        "task_track_started": True,
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "task_create_missing_queues": False,
        "task_default_queue": Queue.MAINTENANCE.value,
        # in this order: what a person waits for is taken first
        "task_queues": _queues(),
        "broker_transport_options": _transport(settings),
        "result_backend_transport_options": _transport(settings),
        "redis_socket_timeout": 10,
        "redis_socket_connect_timeout": 5,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 10,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_acquire_timeout": 30,
        # the outbox is the database: publishing may give up soon
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_max": 2},
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_pool": "worker.pool:TaskPool",
        # the parent of a new process, which hears that it is up, may wait for its broker for a while
        "worker_proc_alive_timeout": 60,
        "worker_max_tasks_per_child": 200,
        "worker_max_memory_per_child": settings.process_memory_bytes >> 10,  # in KiB
        "worker_redirect_stdouts": False,
        "beat_schedule": schedule(settings),
        "beat_scheduler": "worker.timetable:DiskTolerantScheduler",
        "beat_schedule_filename": str(settings.data_dir / "beat-schedule"),
        "imports": ["worker.tasks", "worker.lifecycle"],
        "enable_utc": True,
    }


def _queues() -> list[Any]:
    ordered = (Queue.INTERACTIVE, Queue.INGEST, Queue.SEARCH, Queue.MAINTENANCE)
    return [BrokerQueue(queue.value) for queue in ordered]  # type: ignore[no-untyped-call] # kombu's


def _transport(settings: Settings) -> dict[str, Any]:
    return {
        "visibility_timeout": settings.visibility_timeout,
        "queue_order_strategy": "priority",
        "unacked_restore_interval": 10,
        # a worker killed while it sweeps must not block all redelivery for the default 300 s
        "unacked_mutex_expire": 60,
        # without it a half-open connection hangs for good
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
    }


@before_task_publish.connect  # type: ignore[untyped-decorator] # celery's
def _say_when(headers: dict[str, Any], **_: Any) -> None:
    """Write into a message when it was sent: Redis does not know."""
    headers["sent_at"] = time.time()


install()
app = Celery("worker")
app.config_from_object(configuration(load_settings()))
require_json(app.conf)  # a loader, or who listens as it is configured, may have added to it
