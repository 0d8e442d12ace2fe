"""The sentences that the service answers with, as seen in public issues; this module decides nothing."""

from math import ceil

MONTHLY_QUOTA = (
    "Request failed. You've reached your write unit limit for the current month ({limit}). "
    "To continue writing data, upgrade your plan."
)
STORAGE = (
    "Request failed. You've reached the max storage allowed for project default (2GB). "
    "To continue writing data, upgrade your plan."
)
NAMESPACES = "Request failed. You've reached the max namespaces allowed in index ({limit})."
DOCUMENT_SCHEMA = (
    "This index has a document schema, so writes must go through the documents API. "
    "Use POST /namespaces/{namespace}/documents/upsert instead."
)
UPSERT_RATE = (
    "Too many requests. You've reached the upsert QPS limit for namespace {namespace} ({limit} QPS). "
    "Pace your requests or contact support to request a limit increase."
)
UPSERT_BYTES = (
    "Too many requests. You've reached the max upsert size limit per second for namespace {namespace} "
    "({limit} per second). Pace your requests or contact support to request a limit increase."
)
ZERO_VECTOR = "Dense vectors must contain at least one non-zero value. Vector ID '{id}' contains only zeros"
METADATA_TYPE = "Metadata value must be a string, number, boolean or list of strings, got '{got}' for field '{field}'"
METADATA_SIZE = "Metadata size is {size} bytes, which exceeds the limit of {limit} bytes per vector"
DIMENSION = "Vector dimension {got} does not match the dimension of the index {dimension}"
SPARSE_EMPTY = "Sparse vector must contain at least one value"
SPARSE_UNSUPPORTED = (
    "Index configuration does not support sparse values - only indexes that are sparse or using dotproduct "
    "are supported"
)
REQUEST_SIZE = "Request size {size} exceeds the maximum supported size of {limit}"
BARE_413_HTML = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n</body>\r\n</html>\r\n"
)
UNAUTHORIZED = b'"Unauthorized"'
INVALID_KEY = b"Invalid API Key"

_MEGABYTE = 1_000_000

_BY_STATUS = {
    400: "Bad request",
    401: "Unauthorized",
    402: "Payment required. Update the payment method of the project to continue.",
    403: STORAGE,
    404: "Index not found",
    408: "Request timeout",
    409: "Conflict",
    413: "Request entity too large",
    429: "Too many requests",
    500: "Internal server error",
    502: "Bad gateway",
    503: "The service is currently unavailable",
    504: "Upstream request timeout",
}


def usual_text(status: int) -> str:
    """The message for an HTTP `status` where no better one is given."""
    return _BY_STATUS.get(status, f"HTTP status {status}")


def megabytes(size: float) -> str:
    """`size` in bytes as the service prints it, in whole megabytes rounded up: `3MB`."""
    return f"{ceil(size / _MEGABYTE)}MB"
