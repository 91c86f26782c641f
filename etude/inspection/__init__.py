"""What a person should see of an image set before a method learns from it: pictures, crops, captions, and doubts.

Nothing that trains depends on this folder, and nothing here imports torch: an edit only draws pages again.
"""
