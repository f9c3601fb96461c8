"""The page that shows the API's description, with its script: it is there without the Internet too."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def router(title: str, description: str) -> APIRouter:
    """``description``: where it is."""
    made = APIRouter(include_in_schema=False)
    # The package is there for these files alone.
    folder = files("fastapi_offline") / "static"

    async def page() -> HTMLResponse:
        script, style = (f"{description.rpartition('/')[0]}/docs/{name}" for name in ASSETS)
        return get_swagger_ui_html(
            openapi_url=description,
            title=title,
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url="data:,",
        )

    def asset(name: str) -> Callable[[], Awaitable[FileResponse]]:
        async def answer() -> FileResponse:
            return FileResponse(str(folder / name), media_type=ASSETS[name])

        return answer

    made.add_api_route("", page)
    for name in ASSETS:
        made.add_api_route(f"/{name}", asset(name))
    return made
