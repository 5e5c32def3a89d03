"""`orkestra dev`: server, worker with reload and trace page for whoever writes workflows."""
