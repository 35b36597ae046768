"""The parts of the HTTP service, in the order of who imports whom.

settings     what the operator decides
logs         structured log lines
key_store    clients' evaluation keys on disk
worker       one process that evaluates, a `Server` in it
workers      as many as there are cores, behind a bounded queue
refusals     how errors are told to clients
uploads      bodies of requests, within limits
journal      a log line per request
application  the endpoints
listener     one address, connections without endless patience
"""
