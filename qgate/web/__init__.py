"""The label page: faces, orders, routes, guard and server, each in a file of its own."""
