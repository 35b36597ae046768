"""Which hosts are this machine itself: plain HTTP is safe there and nowhere else."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether connections to, or at, this host stay within the machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
