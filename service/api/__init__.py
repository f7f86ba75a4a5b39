"""The HTTP service: application, server, guard, routes, dashboard. FastAPI, Starlette and uvicorn are used only here.

Imports all but `worker` and `cli`.
"""
