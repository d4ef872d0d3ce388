"""A bundle of `merge --views` over HTTP: python examples/serve_fastapi.py bundle 8000
curl localhost:8000/models/a --json '{"x": [[0, 1, 2, 3, 4, 5, 6, 7]]}'"""

import sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse

from netfuse_onnx import MergedSession
from netfuse_onnx.runtime.errors import ServingError


@asynccontextmanager
async def lifespan(app: FastAPI):
    with MergedSession(sys.argv[1], timeout=1.0) as app.state.session:
        yield  # on the way out, what was accepted is answered


app = FastAPI(lifespan=lifespan)


@app.post("/models/{model}")
async def answer(model: str, feeds: dict[str, list]) -> dict[str, list]:
    outputs = await app.state.session.arun(model, feeds)
    return {name: value.tolist() for name, value in outputs.items()}


@app.exception_handler(ServingError)
async def refuse(request, error: ServingError):
    return JSONResponse({"error": str(error)}, error.http)


@app.get("/metrics")
async def metrics():
    return PlainTextResponse(app.state.session.prometheus())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]))
