"""What Prometheus may scrape."""

from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 20.0)


class Metrics:
    """All of one process."""

    requests = Counter("gpve_http_requests_total", "HTTP requests", ("method", "route", "status"))
    request_s = Histogram("gpve_http_request_seconds", "Time to answer", ("method", "route"), buckets=BUCKETS)
    calls = Counter("gpve_grpc_calls_total", "gRPC calls", ("method", "code"))
    sessions = Gauge("gpve_node_sessions", "Nodes whose session this server holds")
    tasks = Gauge("gpve_tasks_in_hand", "Tasks that this server's engine drives")
    over = Counter("gpve_tasks_total", "Tasks that came to an end here", ("status",))
    decided = Counter("gpve_placements_total", "Places decided on here", ("policy", "outcome"))
    decide_s = Histogram("gpve_decide_seconds", "Time of one call of the scheduler", buckets=BUCKETS)
    store_up = Gauge("gpve_store_up", "Whether the database answers")


METRICS = Metrics()
