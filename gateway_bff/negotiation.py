"""What a client takes, and how gladly: fields with qualities (RFC 9110 §12.4.2)."""


def qualities(field: str) -> dict[str, float]:
    """What an Accept or Accept-Encoding field names, in small letters, each with its quality."""
    return dict(map(_quality, field.lower().split(",")))


def _quality(element: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in element.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            return name, _number(parameter[2:])
    return name, 1.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
