"""`stylegan2-ada`: networks of the user's own, from their files to pixels."""
