"""The local trace page: takes the spans that Langfuse would, keeps them and shows them."""
