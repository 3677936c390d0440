"""No pages: browsers only open a WebSocket here."""

urlpatterns: list[object] = []
