"""An application with the OpenTelemetry SDK: PROTOCOL ENDPOINT RECORDS. Exits with 0 if every exporter was answered."""
import logging
import sys
import time

protocol, endpoint, records = sys.argv[1], sys.argv[2], int(sys.argv[3])

from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

if protocol == "grpc":
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    def exporter(kind, signal):
        return kind(endpoint=endpoint, insecure=True, timeout=60, compression=Compression.Gzip)
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def exporter(kind, signal):
        return kind(endpoint=f"{endpoint}/v1/{signal}", timeout=60, compression=Compression.Gzip)

resource = Resource.create({"service.name": f"shop-{protocol}", "deployment.environment": "test"})

tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(exporter(OTLPSpanExporter, "traces")))
tracer = tracers.get_tracer("shop", "1.0")

reader = PeriodicExportingMetricReader(exporter(OTLPMetricExporter, "metrics"), export_interval_millis=3_600_000)
meters = MeterProvider(resource=resource, metric_readers=[reader])
meter = meters.get_meter("shop")
orders, latency = meter.create_counter("orders", unit="1"), meter.create_histogram("latency", unit="ms")

loggers = LoggerProvider(resource=resource)
loggers.add_log_record_processor(
    BatchLogRecordProcessor(exporter(OTLPLogExporter, "logs"), schedule_delay_millis=200, max_export_batch_size=100,
                            max_queue_size=max(records, 2048))
)
logger = logging.getLogger("shop")
logger.propagate = False
logger.addHandler(LoggingHandler(logger_provider=loggers))

with tracer.start_as_current_span("earlier") as earlier:
    pass
with tracer.start_as_current_span("order", kind=SpanKind.SERVER):
    link = Link(earlier.get_span_context())
    with tracer.start_as_current_span("pay", kind=SpanKind.CLIENT, links=[link]) as span:
        span.set_attribute("amount", 12.5)
        span.set_attribute("items", ["a", "b"])
        span.add_event("retry", {"after": 3})
        span.set_status(Status(StatusCode.ERROR, "declined"))
        for number in range(records):
            orders.add(1)
            latency.record(float(number))
            logger.warning("record %d", number, extra={"order": number})
            if number % 100 == 99:
                # Some seconds in all for thousands of records, so that there is a middle to be killed in.
                time.sleep(0.1)

taken = [tracers.force_flush(60_000), meters.force_flush(60_000), loggers.force_flush(60_000)]
tracers.shutdown()
meters.shutdown()
loggers.shutdown()
sys.exit(0 if all(result is not False for result in taken) else 1)
